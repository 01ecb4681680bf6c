# `make help` lists the targets and settings.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-matrix test-slurm test-gpu lint bench bench-gpu clean

PYTHON ?=
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
WORKERS ?= 2
export PYTHON VENV CONSTRAINTS

# Always quoted, because the project's path may contain spaces.
BIN := $(VENV)/bin

help: ## list the targets
	@echo "usage: make TARGET [PYTHON=python3.12] [VENV=.venv] [CONSTRAINTS=constraints.txt] [ARGS='...']"
	@while IFS= read -r line; do \
	  if [[ $$line =~ ^([a-z-]+):.*\#\#\ (.*) ]]; then \
	    printf '  %-11s %s\n' "$${BASH_REMATCH[1]}" "$${BASH_REMATCH[2]}"; \
	  fi; \
	done < Makefile

install: ## install PyTorch, fairseq and this package into .venv; run automatically by the targets that need it
	@scripts/install.sh

quickstart: install ## fine-tune an encoder with CE and with CE + SCL, and compare
	@"$(BIN)/fairseq-scl" quickstart $(ARGS)

# Many tests start Python: each would compile the package if it were not to keep that.
test: install ## run the tests (ARGS: pytest options)
	@bin=$$(cd "$(BIN)" && pwd); PATH="$$bin:$$PATH" OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
	  "$$bin/python" -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

# What depends most on the versions of Python and its packages.
MATRIX := compat losses core convert data inference cli experiments/test_sweep.py experiments/test_workers.py
test-matrix: ## run the faster half of the tests on each Python from 3.11 to 3.14 that is found
	@for version in 3.11 3.12 3.13 3.14; do \
	  "python$$version" --version || continue; \
	  PYTHON="python$$version" VENV=".venv-$$version" scripts/install.sh; \
	  PATH="$$PWD/.venv-$$version/bin:$$PATH" OMP_NUM_THREADS=1 python -m pytest \
	    -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(MATRIX:%=tests/%) $(ARGS); \
	done

test-slurm: install ## start a one-node Slurm (needs root; Debian packages) and test with it
	@tests/slurm/start.sh
	@bin=$$(cd "$(BIN)" && pwd); PATH="$$bin:$$PATH" OMP_NUM_THREADS=1 \
	  "$$bin/python" -m pytest -m slurm tests/slurm $(ARGS)

test-gpu: ## run the GPU tests with this machine's PyTorch (see benchmarks/README.md)
	@scripts/on_gpu.sh -m pytest -m gpu tests/gpu -n 8 $(ARGS)

lint: install ## check style, types, imports and scripts
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"
	"$(BIN)/lint-imports"
	"$(BIN)/shellcheck" .ci/run scripts/*.sh tests/slurm/*.sh

bench: install ## compare with other implementations (ARGS='--only loss', see --help)
	@"$(BIN)/python" -m benchmarks $(ARGS)

bench-gpu: ## run the GPU benchmarks like test-gpu (ARGS='--glue FOLDER')
	@scripts/on_gpu.sh -m benchmarks --gpu --rounds 2 $(ARGS)

clean: ## remove .venv, caches and build outputs
	@if [[ -f "$(VENV)/.made-by-fairseq-scl" ]]; then rm -rf "$(VENV)"; fi
	@rm -rf build dist fairseq_scl.egg-info .hypothesis .import_linter_cache \
	  .mypy_cache .pytest_cache .ruff_cache
	@find fairseq_scl tests $(wildcard benchmarks) -name __pycache__ -prune -exec rm -rf {} +
	@echo "kept: data-bin, outputs and every trained model"
