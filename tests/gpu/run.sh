#!/bin/sh
# Builds the CUDA kernels with their CPU twins and compares the two on this machine's GPU.
#   tests/gpu/run.sh [--build-only] [--dir D]      needs nvcc (PATH, $CUDACXX or /usr/local/cuda) and a C++ compiler
# Writes D/gpu.json (default D: build/gpu): {"built", "ran", and either "reason" or "device", "cases", "failures"}.
# Exit: 0 all ran and is equal, or all was built and --build-only was given; 2 usage; 1 otherwise, also without a GPU.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$root/build/gpu
build_only=no
while [ $# -gt 0 ]; do
  case $1 in
    --build-only) build_only=yes ;;
    --dir) [ $# -ge 2 ] || { echo "--dir needs a directory" >&2; exit 2; }; dir=$2; shift ;;
    *) echo "unknown argument '$1'; known: --build-only, --dir D" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$dir"
rm -f "$dir/gpu.json" "$dir"/*.o
report() { printf '%s\n' "$1" > "$dir/gpu.json"; echo "report: $dir/gpu.json"; }

nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! [ -x "$nvcc" ]; then
  echo "no nvcc ($nvcc): not built, not run; install the CUDA Toolkit 13 or set CUDACXX" >&2
  report '{"built": false, "ran": false, "reason": "no nvcc"}'
  exit 1
fi
started=$(date +%s)
for source in kernels/block_copy.cu kernels/checksum.cu kernels/copy_plan.cc tests/gpu/kernels_gpu.cc; do
  "$nvcc" -std=c++17 -O3 -Werror=all-warnings -I"$root" \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
    -gencode arch=compute_100,code=[sm_100,compute_100] \
    -c "$root/$source" -o "$dir/$(basename "$source").o"
done
"$nvcc" -o "$dir/kernels_gpu" "$dir"/*.o
echo "built in $(($(date +%s) - started)) s"

if [ $build_only = yes ]; then
  echo "built, not run (--build-only)"
  report '{"built": true, "ran": false, "reason": "--build-only"}'
  exit 0
fi
code=0
"$dir/kernels_gpu" "$dir/gpu.json" || code=$?
if [ $code = 3 ]; then
  echo "no CUDA device: built, not run"
  report '{"built": true, "ran": false, "reason": "no CUDA device"}'
  exit 1
elif ! [ -f "$dir/gpu.json" ]; then
  report '{"built": true, "ran": false, "reason": "a CUDA call failed, see above"}'
  exit 1
fi
echo "report: $dir/gpu.json"
exit $code
