#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests. Without an argument: everything that needs no GPU, that is the
# sanitizer builds first (asan-ubsan: unit and contract; tsan: concurrency), then every test of the release build, so
# that the last lines are ctest's own summary. With labels: only those, in the release build.
#   tests/run.sh                 all
#   tests/run.sh unit contract   these labels; `ctest --test-dir build/release --print-labels` lists them
#   tests/run.sh engines         Python's side and vLLM, the long scenarios too
# Never run here: label gpu (needs one), and without labels those that are long. Fails when any test fails.
set -euo pipefail

cd "$(dirname "$0")/.."
case "${1:-}" in
  --help|-h) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  -*) echo "run.sh: unknown argument $1; labels or nothing (see --help)" >&2; exit 2 ;;
esac

deploy/install_packages.sh
jobs=$(nproc)
failed=()

step() { printf '\n==== %s (%ds)\n' "$*" "$SECONDS"; }

# build PRESET [TARGET...]: configures and builds; no target = everything.
build() {
  local preset=$1
  shift
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || { cat "build/$preset.configure.log"; return 1; }
  cmake --build "build/$preset" -j "$jobs" ${1:+--target "$@"}
}

# targets PRESET LABEL_REGEX: the executables of the tests with such labels (a test is named after its target).
targets() {
  ctest --test-dir "build/$1" -N -L "$2" | sed -n 's/^ *Test *#[0-9]*: //p' | while read -r name; do
    grep -q "^build $name: phony" "build/$1/build.ninja" && echo "$name"
  done || true
}

# sanitized PRESET LABEL_REGEX: builds only what those tests need, and runs them.
sanitized() {
  local preset=$1 labels=$2
  step "$preset: build"
  cmake --preset "$preset" >"build/$preset.configure.log" 2>&1 || { cat "build/$preset.configure.log"; return 1; }
  local names
  mapfile -t names < <(targets "$preset" "$labels")
  [ ${#names[@]} -gt 0 ] || { echo "no test has a label like $labels"; return 1; }
  cmake --build "build/$preset" -j "$jobs" --target "${names[@]}" || return 1
  step "$preset: ${#names[@]} tests"
  ctest --test-dir "build/$preset" -L "$labels" -LE 'gpu|long|bench|tidy' -j "$jobs" --output-on-failure --no-tests=error
}

# Skips are not silence: each test that skipped says why.
skips() {
  awk '/^\[ RUN /{name=$NF} /: Skipped$/{getline; print "skipped: " name ": " $0} /^skipped: |^SKIPPED /' \
    build/release/Testing/Temporary/LastTest.log 2>/dev/null || true
}

mkdir -p build
if [ $# -eq 0 ]; then
  sanitized asan-ubsan 'unit|contract' || failed+=(asan-ubsan)
  sanitized tsan 'concurrency' || failed+=(tsan)
fi

step "release: build"
build release
label_arguments=(-LE 'gpu|long|bench')
if [ $# -gt 0 ]; then
  labels=$(IFS='|'; echo "$*")
  label_arguments=(-L "^($labels)$" -LE 'gpu')
fi
step "release: tests"
# ctest's summary is held back until skips and earlier failures are told.
summary=build/release.summary
: >"$summary"
status=0
ctest --test-dir build/release "${label_arguments[@]}" -j "$jobs" --output-on-failure --no-tests=error 2>&1 |
  awk -v summary="$summary" '/% tests passed/ {held = 1} held {print > summary; next} {print; fflush()}' || status=$?
skips
[ ${#failed[@]} -eq 0 ] || printf 'FAILED before this: %s\n' "${failed[*]}"
cat "$summary"
[ "$status" -eq 0 ] && [ ${#failed[@]} -eq 0 ]
