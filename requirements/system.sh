#!/bin/sh
# Does this machine have what pip cannot install? Installs it on Debian and Ubuntu as root, else names it in a sentence.
#   sh requirements/system.sh PYTHON
set -eu
python="$1"

need() {  # need PACKAGE WHAT-FOR
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "regnetx: installing the system package $1, $2" >&2
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$1" >/dev/null
    else
        echo "regnetx: the system package $1 is missing, $2; install it (Debian, Ubuntu: apt-get install $1)" >&2
        exit 2
    fi
}

if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    echo "regnetx: $python is not Python 3.11, 3.12 or 3.13; say which: make PYTHON=python3.12 ..." >&2
    exit 2
fi
"$python" -c 'import ensurepip' 2>/dev/null ||
    need "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" "which makes virtual environments"
"$python" -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || need libgomp1 "which Paddle needs"
