#!/bin/sh
# Alertmanager for the tests of the alerts -> its program: that of this machine, or Debian's package unpacked into FOLDER
# and not installed (an installed one starts by itself). Where there is neither, a sentence.
#   sh requirements/alertmanager.sh FOLDER
set -eu
folder="$1"
if command -v prometheus-alertmanager || command -v alertmanager; then  # Debian's name, and that of its makers
    exit 0
fi
program="$folder/alertmanager"
if [ ! -x "$folder/usr/bin/prometheus-alertmanager" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null; then
    mkdir -p "$folder" 2>/dev/null || true
    (cd "$folder" && { apt-get download -qq prometheus-alertmanager ||
        { [ "$(id -u)" = 0 ] && apt-get update -qq && apt-get download -qq prometheus-alertmanager; }; } &&
        dpkg-deb -x prometheus-alertmanager_*.deb . && rm prometheus-alertmanager_*.deb) >/dev/null 2>&1 || true
fi
if [ -x "$folder/usr/bin/prometheus-alertmanager" ]; then
    # Debian's reads its templates from /usr/share alone, so it is shown a /usr/share of its own; nobody else sees that.
    cat >"$program" <<'WRAPPER' && chmod +x "$program"
#!/bin/sh
[ "$(id -u)" = 0 ] || as_root=--map-root-user
exec unshare --mount ${as_root:-} sh -c 'mount --bind "$0/usr/share" /usr/share &&
    exec "$0/usr/bin/prometheus-alertmanager" "$@"' "$(dirname "$(readlink -f "$0")")" "$@"
WRAPPER
fi
if "$program" --version >/dev/null 2>&1; then
    echo "$program"
    exit 0
fi
echo "no Alertmanager here; install it (Debian, Ubuntu: apt-get install prometheus-alertmanager)" >&2
exit 2
