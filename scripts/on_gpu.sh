#!/usr/bin/env bash
# Runs Python on a GPU machine that has PyTorch but may lack fairseq and access to a package
# index. Missing packages come from wheels (see gpu_wheels.sh); nothing is installed into
# the machine's Python. `make test-gpu` and `make bench-gpu` use it.
#
# Usage:  scripts/on_gpu.sh ARGUMENT...    for Python, such as -m pytest -m gpu tests/gpu
# Writes: a temporary folder, removed at the end.
# Cost:   10 seconds before Python starts.
#
# Settings: PYTHON  interpreter with PyTorch  (default: VENV/bin/python, else python3)
#           VENV    created by install.sh     (default: .venv)
#           WHEELS  folder with the wheels    (default: .whl)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-}
VENV=${VENV:-.venv}
WHEELS=${WHEELS:-.whl}
if [[ -z $PYTHON ]]; then
  PYTHON=python3
  [[ ! -x $VENV/bin/python ]] || PYTHON=$VENV/bin/python
fi
"$PYTHON" -c "import torch" || {
  echo "on_gpu.sh: $PYTHON cannot import torch: set PYTHON to an interpreter that can" >&2
  exit 2
}

pip=("$PYTHON" -m pip --disable-pip-version-check)
installed=$("${pip[@]}" list --format=freeze | sed 's/=.*//' | tr '[:upper:]_.' '[:lower:]--')
missing=()
for wheel in "$WHEELS"/*.whl; do
  name=${wheel##*/}
  name=$(tr '[:upper:]_.' '[:lower:]--' <<<"${name%%-*}")
  if [[ -f $wheel ]] && ! grep -qx -- "$name" <<<"$installed"; then
    missing+=("$wheel")
  fi
done
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if ((${#missing[@]})); then
  echo "on_gpu.sh: adding ${missing[*]##*/}" >&2
  "${pip[@]}" install --quiet --no-index --no-deps --no-compile --target "$site" \
    "${missing[@]}"
fi
PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}" "$PYTHON" "$@"
