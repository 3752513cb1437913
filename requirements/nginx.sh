#!/bin/sh
# An nginx for the test of rolling restarts -> its path: that of this machine, or Debian's, unpacked and not installed (an
# installed one may start by itself). Where there is neither, a sentence.
set -eu
folder="$(dirname "$0")/../.nginx"
if command -v nginx; then
    exit 0
fi
if [ ! -x "$folder/usr/sbin/nginx" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p "$folder"
    (cd "$folder" && { apt-get download -qq nginx || { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq nginx; }; } &&
        dpkg-deb -x nginx_*.deb . && rm nginx_*.deb) >/dev/null 2>&1 || true
fi
if "$folder/usr/sbin/nginx" -v >/dev/null 2>&1; then
    echo "$folder/usr/sbin/nginx"
    exit 0
fi
echo "no nginx here; install it (Debian, Ubuntu: apt-get install nginx-light)" >&2
exit 2
