#!/usr/bin/env bash
# Builds the page from src/ into dist/, which is kept in the repository: CMake takes it into the binary, and nobody else needs Node.js.
# Usage: services/console/build.sh [FOLDER]. With FOLDER the page is built there instead. Needs npm; packages are fetched when the lockfile has changed.
set -euo pipefail

cd "$(dirname "$0")"
out=${1:+$(realpath -m "$1")}
out=${out:-$PWD/dist}
command -v npm >/dev/null || { echo "build.sh: no npm here; deploy/install_packages.sh browser installs it" >&2; exit 1; }
wanted=$(sha256sum package-lock.json | cut -d' ' -f1)
if [ "$(cat node_modules/.of 2>/dev/null)" != "$wanted" ]; then
  log=$(mktemp)
  npm ci --no-audit --no-fund >"$log" 2>&1 || { tail -n 5 "$log" >&2; rm -f "$log"; exit 1; }
  rm -f "$log"
  echo "$wanted" >node_modules/.of
fi
node_modules/.bin/tsc --noEmit
node_modules/.bin/vite build --logLevel warn --outDir "$out" --emptyOutDir
