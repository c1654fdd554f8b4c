#!/usr/bin/env bash
# Runs otlp_bodies.py on FOLDER with the package it needs, in a virtual environment that is made once, under
# ${XDG_CACHE_HOME:-~/.cache}/stemcache. Exits 77 (a skip), saying why, when pip cannot install it.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
package=opentelemetry-proto==1.29.0
venv=${XDG_CACHE_HOME:-$HOME/.cache}/stemcache/otlp-${package#*==}
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if [ ! -e "$venv/ready" ]; then
  rm -rf "$venv"
  python3 -m venv "$venv" >"$venv.log" 2>&1 || { echo "skipped: python3 -m venv failed: $(tail -n 1 "$venv.log")"; exit 77; }
  "$venv/bin/python" -m pip --disable-pip-version-check -q install "$package" >"$venv.log" 2>&1 ||
    { echo "skipped: pip cannot install $package: $(tail -n 1 "$venv.log")"; exit 77; }
  touch "$venv/ready"
fi
exec "$venv/bin/python" "$here/otlp_bodies.py" "$1"
