#!/usr/bin/env bash
# Runs files of Python tests against the binaries of a build: tests/engines/pytest.sh BUILD_FOLDER FILE...
# Fixtures are in conftest.py. Exits 77 when the environment cannot be made, or when every test was skipped; each skip is told with its reason.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$1
shift
python=$("$here/venv.sh") || exit $?
cd "$here/../.."
status=0
PYTHONDONTWRITEBYTECODE=1 "$python" -m pytest -q -rs -p no:cacheprovider -c /dev/null --rootdir="$here" --import-mode=importlib \
  --binaries "$build/bin" "$@" || status=$?
[ "$status" -ne 5 ] || { echo "skipped: no test was collected"; exit 77; }
exit "$status"
