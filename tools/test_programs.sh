#!/bin/sh
# Install the programs that some tests use and pip cannot bring: Chromium, PostgreSQL, Redis. Needs apt and root.
# With --krita: Krita, its Python and a virtual screen instead.
# With --if-root: only as root and where apt is there, and never a failure; tests that miss a program are skipped.
set -eu
missing=
if [ "${1:-}" = --krita ]; then
  command -v krita > /dev/null || missing="$missing krita"
  # Krita only recommends them, and loads no plugin without.
  ls -d /usr/lib/python3/dist-packages/PyQt5 > /dev/null 2>&1 || missing="$missing python3-pyqt5 python3-sip"
  command -v Xvfb > /dev/null || missing="$missing xvfb"
else
  command -v chromium > /dev/null || missing="$missing chromium fonts-dejavu-core"
  ls /usr/lib/postgresql/*/bin/postgres > /dev/null 2>&1 || missing="$missing postgresql"
  command -v redis-server valkey-server > /dev/null || missing="$missing redis-server"
fi
[ -n "$missing" ] || exit 0
install="apt-get install --no-install-recommends$missing"
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
  [ "${1:-}" = --if-root ] && exit 0
  echo "As root on Debian or Ubuntu: $install"
  exit 1
fi
echo "Installing programs that some tests use:$missing"
export DEBIAN_FRONTEND=noninteractive
said=$(mktemp)
trap 'rm -f "$said"' EXIT
if apt-get update -qq > "$said" 2>&1 && $install -y -qq > "$said" 2>&1; then exit 0; fi
tail -n 5 "$said"
[ "${1:-}" = --if-root ] || exit 1
echo "They could not be installed; the tests that use them will be skipped."
