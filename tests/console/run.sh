#!/usr/bin/env bash
# The console in a real browser against a real cluster: tests/console/run.sh BUILD_FOLDER. Chromium and Node.js are installed when they are missing;
# where they cannot be, this says so and exits 77 (a skip). Screenshots are left in BUILD_FOLDER/console.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tree=$(cd "$here/../.." && pwd)
build=$(realpath "$1")
skip() { echo "skipped: $*"; exit 77; }

"$tree/deploy/install_packages.sh" browser >"$build/console.packages.log" 2>&1 || skip "no Chromium: $(tail -n 1 "$build/console.packages.log")"
chromium=$(command -v chromium || command -v chromium-browser) || skip "no Chromium on the path"

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
"$tree/services/console/build.sh" "$fresh" >"$build/console.page.log" 2>&1 || {
  grep -q "error TS\|Build failed" "$build/console.page.log" && { cat "$build/console.page.log"; exit 1; }
  skip "the page's packages cannot be had: $(tail -n 1 "$build/console.page.log")"
}
diff -rq "$fresh" "$tree/services/console/dist" || { echo "services/console/dist is not what src/ builds: run services/console/build.sh"; exit 1; }

mkdir -p "$build/console"
node "$here/console_test.mjs" "$build/bin" "$chromium" "$build/console"
