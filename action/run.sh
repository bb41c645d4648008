#!/usr/bin/env bash
# One step of the Action: find the interpreter, then leave everything to Python.
# -I: neither the workspace nor PYTHON* variables can put a module of a pull request before ours.
set -euo pipefail
python="${WW_PYTHON:-python3}"
if ! command -v -- "${python}" >/dev/null; then
  echo "::error title=ww-gate::the Python of the input 'python' was not found: put actions/setup-python before"
  exit 1
fi
exec "${python}" -I "${BASH_SOURCE[0]%/*}" "$@"
