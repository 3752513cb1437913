#!/bin/sh
# A Python 3.9 with ensurepip, which the stock runtime needs -> its path; where there is none, a sentence on how to get one.
for python in "${STOCK_PYTHON:-python3.9}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.9.*/bin/python3.9; do
    # Running it is the test: the shims of pyenv exist for versions that are not chosen.
    if "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 9))' 2>/dev/null; then
        echo "$python"
        exit 0
    fi
done
echo "regnetx: the stock runtime needs CPython 3.9 (paddle-serving 0.9.0 has no packages for later ones) and none was" \
    "found; install one (pyenv install 3.9, or uv python install 3.9) and say where it is if it is not on the PATH:" \
    "make STOCK_PYTHON=/path/to/python3.9 ..., or take the container of docs/migrating.md" >&2
exit 2
