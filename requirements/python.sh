#!/bin/sh
# Is $1 a Python that can make the environment? Says in one sentence what is missing where it is not.
set -eu
python="$1"
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "regnetx: $python is not Python 3.11, 3.12 or 3.13 ($("$python" --version 2>&1 || true)); say which: make PYTHON=python3.12 ..." >&2
    exit 2
fi
# Debian and Ubuntu keep this part of Python in a package of its own.
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "regnetx: installing $package, which makes virtual environments" >&2
        apt-get update -qq && apt-get install -y -qq --no-install-recommends "$package" >/dev/null
    else
        echo "regnetx: $python cannot make virtual environments; install the package $package" >&2
        exit 2
    fi
fi
