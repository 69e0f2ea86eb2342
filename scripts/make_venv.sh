#!/usr/bin/env bash
# Make a virtual environment with the first Python on PATH that is new enough and can make one.
# usage: [PYTHON=interpreter] make_venv.sh FOLDER
set -euo pipefail

folder=${1:?usage: make_venv.sh FOLDER}
read -ra candidates <<<"${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14 python}"

suits() { # a version manager's shim may be on PATH and still have nothing behind it: run it
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

for candidate in "${candidates[@]}"; do
  if suits "$candidate"; then
    echo "make: making $folder with $("$candidate" --version) ($candidate)"
    exec "$candidate" -m venv "$folder"
  fi
done
echo "make: expected Python 3.11 or newer with its venv module, found none among: ${candidates[*]}." >&2
echo "make: install one (Debian, Ubuntu: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python" >&2
exit 1
