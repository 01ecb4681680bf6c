#!/usr/bin/env bash
# Builds the wheels that a GPU machine without access to a package index needs in addition
# to PyTorch and transformers: fairseq without its C++ extensions, and the packages that it
# and the tests import. `make test-gpu` and `make bench-gpu` install the missing ones.
#
# Usage:  scripts/gpu_wheels.sh [FOLDER]          (default: .whl, which git ignores)
# Writes: FOLDER/*.whl, 17 MB, for CPython 3.12 on x86-64 Linux.
# Cost:   2 minutes.
#
# Settings: PYTHON  CPython 3.12, used to build fairseq     (default: python3.12)
set -euo pipefail
PYTHON=${PYTHON:-python3.12}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
out=${1:-.whl}

fail() {
  echo "gpu_wheels.sh: $*" >&2
  exit 2
}

version=$("$PYTHON" --version 2>&1) || fail "$PYTHON does not run: set PYTHON=/path/to/python3.12"
[[ $version == "Python 3.12."* ]] || fail "PYTHON is $version: CPython 3.12 is needed"
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/venv"
pip=("$work/venv/bin/pip" --quiet --disable-pip-version-check)
"${pip[@]}" install --constraint constraints.txt setuptools wheel cython numpy

# fairseq's setup.py imports these two names. Its PyTorch extensions are not needed here,
# and without them the build does not need PyTorch.
stand_in=$work/stand-in/torch/utils
mkdir -p "$stand_in"
touch "$work/stand-in/torch/__init__.py" "$stand_in/__init__.py"
cat >"$stand_in/cpp_extension.py" <<'PYTHON'
from setuptools import Extension
from setuptools.command.build_ext import build_ext


def CppExtension(name, sources, **options):
    return Extension(name, sources=[])


class BuildExtension(build_ext):
    def run(self):
        self.extensions = [e for e in self.extensions if e.sources]
        super().run()
PYTHON
export PYTHONPATH=$work/stand-in
cd "$work"
"${pip[@]}" download --no-deps --no-build-isolation --no-binary :all: \
  fairseq-fixed==0.12.3.1
tar xzf fairseq_fixed-*.tar.gz
cd fairseq_fixed-*/
rm -r examples fairseq/examples && mkdir examples # setup.py links to the first
"${pip[@]}" wheel --no-deps --no-build-isolation --wheel-dir "$out" .
"${pip[@]}" wheel --no-deps --no-build-isolation --wheel-dir "$out" \
  antlr4-python3-runtime==4.9.3
"${pip[@]}" wheel --no-deps --only-binary :all: --wheel-dir "$out" \
  --constraint "$root/constraints.txt" \
  hydra-core omegaconf bitarray sacremoses sacrebleu portalocker tabulate colorama lxml \
  pooch platformdirs msgspec subword-nmt nvidia-ml-py joblib pytest pytest-xdist execnet \
  pluggy iniconfig pygments hypothesis sortedcontainers pyyaml regex filelock requests \
  sentencepiece
du -sh "$out"
