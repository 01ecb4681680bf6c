#!/usr/bin/env bash
# Makes a virtual environment that holds PyTorch, fairseq, this package (editable) and
# the tools for tests and lint, at the versions of constraints.txt. `make` runs it.
#
# Usage:  scripts/install.sh [PIP-OPTION...]     the options go to every `pip install`
# Writes: VENV, and fairseq_scl.egg-info. A second run with nothing changed ends at
#         once; one that was cut short, or whose folder was moved, starts afresh.
# Cost:   1 minute with a filled package cache, 3 without (two cores); 2 GB on disk with
#         PyTorch for CPUs, 5 GB with CUDA.
#
# Settings: PYTHON  CPython 3.10, 3.11 or 3.12     (default: the first one found)
#           VENV    where to install               (default: .venv, in the repository)
set -euo pipefail
PYTHON=${PYTHON:-}
VENV=${VENV:-.venv}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mark=$VENV/.made-by-fairseq-scl # says that the folder is ours and may be emptied
stamp=$VENV/.installed          # written last: what the folder holds is complete

fail() {
  echo "install.sh: $*" >&2
  exit 2
}

# Prints 3.10, 3.11 or 3.12; fails on every other interpreter and on what is none.
fitting_version() {
  local answer
  answer=$("$1" --version 2>&1) || return 1
  [[ $answer =~ ^Python\ (3\.1[0-2])\.[0-9]+\+?$ ]] && echo "${BASH_REMATCH[1]}"
}

# Prints the interpreter to use, or ends with what was found and what is needed.
choose_python() {
  local candidate answer found=""
  local candidates=(python3.11 python3.12 python3.10 python3)
  [[ -z $PYTHON ]] || candidates=("$PYTHON")
  for candidate in "${candidates[@]}"; do
    if fitting_version "$candidate" >/dev/null; then
      echo "$candidate"
      return
    fi
    answer=$("$candidate" --version 2>&1) || answer="nothing that runs"
    found+=", $candidate (${answer%%$'\n'*})"
  done
  fail "CPython 3.10, 3.11 or 3.12 is needed, found: ${found#, };" \
    "install one, or name it with PYTHON=/path/to/python3.11"
}

# What the folder's content follows from. Its own place is the first line: the scripts
# of a virtual environment name their interpreter by its full path.
wanted() {
  echo "$PWD/$VENV"
  cksum constraints.txt pyproject.toml scripts/install.sh setup.py
}

# True if a finished installation is at VENV, of the Python that was asked for if any;
# what it was made from may have changed since.
has_finished_once() {
  local place="" version
  [[ -f $stamp ]] && read -r place <"$stamp"
  [[ $place == "$PWD/$VENV" ]] &&
    version=$(fitting_version "$VENV/bin/python") &&
    [[ -z $PYTHON || $version == $(fitting_version "$PYTHON") ]] &&
    [[ -x $VENV/bin/fairseq-train && -x $VENV/bin/fairseq-scl && -x $VENV/bin/pytest ]]
}

make_empty_environment() {
  local python
  python=$(choose_python)
  command -v "${CXX:-c++}" >/dev/null ||
    fail "building fairseq needs a C++ compiler, and there is no ${CXX:-c++} (Debian" \
      "and Ubuntu: apt-get install g++ python3-dev)"
  if [[ -e $VENV && ! -f $mark ]] && [[ ! -d $VENV || -n $(ls -A "$VENV") ]]; then
    fail "$VENV exists and was not made by this script: remove it, or name another" \
      "folder with VENV=FOLDER"
  fi
  mkdir -p "$VENV"
  touch "$mark"
  find "$VENV" -mindepth 1 ! -name "${mark##*/}" -delete
  "$python" -m venv "$VENV"
}

install() {
  local what=$1
  shift
  echo "install.sh: $what"
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint constraints.txt "$@"
}

# With CUDA_HOME set, fairseq's build asks for sources that its archive does not hold.
install_fairseq() (
  unset CUDA_HOME
  what="fairseq, compiled here (2 to 3 minutes)"
  if [[ $(fitting_version "$VENV/bin/python") == 3.10 ]]; then
    # The archive of 0.12.2 lacks the parts that use PyTorch, and its build leaves them
    # out only where it sees none: in isolation, for which the variable sets versions.
    PIP_CONSTRAINT=constraints.txt install "$what" --no-deps "$@" fairseq
  else
    # In isolation this build would bring a second PyTorch, several gigabytes.
    install "$what" --no-deps --no-build-isolation "$@" fairseq-fixed
  fi
)

# The archive holds C++ of a Cython too old for Python 3.11 beside its source, which the
# variable has translated anew.
install_fastbpe() (
  export CYTHON_FORCE_REGEN=1
  install "fastBPE, compiled here (10 seconds)" --no-deps --no-build-isolation "$@" \
    fastBPE || echo "install.sh: fastBPE cannot be built here; back-translation applies" \
    "its codes in Python instead, with the same output" >&2
)

install_everything() {
  install "pip and what builds need (15 seconds)" "$@" pip setuptools wheel cython numpy
  install "PyTorch (0.2 GB without CUDA, 3 GB with it)" "$@" torch
  install_fairseq "$@"
  install_fastbpe "$@"
  # setuptools warns that an editable installation reads this folder, which is the aim.
  PYTHONWARNINGS=ignore install "this package, tools for tests and lint (1 minute)" \
    --no-build-isolation "$@" --editable '.[dev]'
}

if has_finished_once; then
  [[ $(<"$stamp") != "$(wanted)" ]] || exit 0
  rm "$stamp"
else
  make_empty_environment
fi
install_everything "$@"
wanted >"$stamp.new"
mv "$stamp.new" "$stamp"
