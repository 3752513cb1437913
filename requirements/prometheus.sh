#!/bin/sh
# promtool and Prometheus for the tests of the alert rules -> the folder they are in: that of this machine, or Debian's
# package unpacked into FOLDER and not installed (an installed one starts by itself). Where there is neither, a sentence.
#   sh requirements/prometheus.sh FOLDER
set -eu
folder="$1"
if tool="$(command -v promtool)" && command -v prometheus >/dev/null; then
    dirname "$tool"
    exit 0
fi
if [ ! -x "$folder/usr/bin/promtool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p "$folder" 2>/dev/null || true
    (cd "$folder" && { apt-get download -qq prometheus || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq prometheus; }; } &&
        dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb) >/dev/null 2>&1 || true
fi
if "$folder/usr/bin/promtool" --version >/dev/null 2>&1; then
    echo "$folder/usr/bin"
    exit 0
fi
echo "no promtool here; install it (Debian, Ubuntu: apt-get install prometheus)" >&2
exit 2
