#!/bin/sh
# Builds the CUDA kernels, compares them with the references on this machine's GPU, runs a share of that under
# compute-sanitizer, and measures them beside the GPU's own copy.
#   tests/gpu/run.sh [--build-only] [--dir D] [--ucx WHEEL]
# needs nvcc 13 (PATH, $CUDACXX or /usr/local/cuda), a C++ compiler, no network.
# --ucx: then the programs that need more than kernels, too: two processes on one GPU move blocks through storage/transport
# (device_reads.cc) over the CUDA-aware UCX of WHEEL, a file of PyPI's libucx-cu13; an engine's pages on the GPU go to
# real nodes and back (device_pages.cc). They are built where the project's packages are and put into D/bundle with
# all that they need, 61 MB; elsewhere those that are there are run, so D/bundle can be carried along, without a WHEEL.
# Writes D/gpu.json (default D: build/gpu): {"built", "ran", and either "reason" or "tests", "sanitizer", "bench", "device_reads",
# "device_pages"}.
# Exit: 0 all ran and is equal, or all was built and --build-only was given; 2 usage; 1 otherwise, also without a GPU.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=$root/build/gpu
build_only=no
ucx=
while [ $# -gt 0 ]; do
  case $1 in
    --build-only) build_only=yes ;;
    --ucx) [ $# -ge 2 ] || { echo "--ucx needs a wheel" >&2; exit 2; }; ucx=$(realpath "$2"); shift ;;
    --dir) [ $# -ge 2 ] || { echo "--dir needs a directory" >&2; exit 2; }; dir=$2; shift ;;
    *) echo "unknown argument '$1'; known: --build-only, --dir D, --ucx WHEEL" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
rm -f "$dir"/*.json "$dir"/*.o
bundle=$dir/bundle
programs="device_reads device_pages"
# make_bundle: the programs, the libraries that they were linked with, and UCX's modules, which UCX looks for beside its own.
make_bundle() {
  rm -rf "$dir/ucx" "$bundle"
  mkdir -p "$dir/ucx" "$bundle/lib/ucx"
  python3 -m zipfile -e "$ucx" "$dir/ucx"
  cmake -S "$root" -B "$dir/ucx-build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DSTEM_CUDA=ON -DSTEM_BENCH=OFF \
    -DSTEM_UCX_ROOT="$dir/ucx/libucx" > "$dir/ucx-build.log"
  cmake --build "$dir/ucx-build" --target $programs >> "$dir/ucx-build.log" || { tail -40 "$dir/ucx-build.log"; return 1; }
  for program in $programs; do cp "$dir/ucx-build/bin/$program" "$bundle/"; done
  cp "$dir"/ucx/libucx/lib/lib*.so.0 "$bundle/lib/"
  cp "$dir"/ucx/libucx/lib/ucx/libuc[tm]_*.so.0 "$bundle/lib/ucx/"
  # Not glibc, which belongs to the machine.
  for program in $programs; do LD_LIBRARY_PATH="$bundle/lib" ldd "$bundle/$program"; done | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
    grep -vE "^$bundle|/(libc|libm|libdl|librt|libpthread|libresolv)\.so" | sort -u | xargs -I{} cp {} "$bundle/lib/"
  find "$bundle" -type f | xargs strip --strip-unneeded
}

report() { printf '%s\n' "$1" > "$dir/gpu.json"; echo "report: $dir/gpu.json"; }

nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
if ! [ -x "$nvcc" ]; then
  echo "no nvcc ($nvcc): not built, not run; install the CUDA Toolkit 13 or set CUDACXX" >&2
  report '{"built": false, "ran": false, "reason": "no nvcc"}'
  exit 1
fi
started=$(date +%s)
kernels="block_copy checksum quantize retention"
for source in $(for name in $kernels; do echo "kernels/$name.cu"; done) tests/gpu/kernels_gpu.cc tests/gpu/kernels_gpu_bench.cu; do
  "$nvcc" -std=c++17 -O3 -Werror=all-warnings -I"$root" \
    -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
    -gencode arch=compute_100,code=[sm_100,compute_100] \
    -c "$root/$source" -o "$dir/$(basename "$source").o"
done
objects=$(for name in $kernels; do echo "$dir/$name.cu.o"; done)
"$nvcc" -o "$dir/kernels_gpu" $objects "$dir/kernels_gpu.cc.o"
"$nvcc" -o "$dir/kernels_gpu_bench" $objects "$dir/kernels_gpu_bench.cu.o"
echo "built in $(($(date +%s) - started)) s"

if [ -n "$ucx" ]; then
  make_bundle
  echo "$bundle: built for the UCX of $(basename "$ucx")"
fi

if [ $build_only = yes ]; then
  echo "built, not run (--build-only)"
  report '{"built": true, "ran": false, "reason": "--build-only"}'
  exit 0
fi
code=0
"$dir/kernels_gpu" "$dir/tests.json" || code=$?
if [ $code = 3 ]; then
  echo "no CUDA device: built, not run"
  report '{"built": true, "ran": false, "reason": "no CUDA device"}'
  exit 1
elif ! [ -f "$dir/tests.json" ]; then
  report '{"built": true, "ran": false, "reason": "a CUDA call failed, see above"}'
  exit 1
fi

# The toolkit has it beside nvcc; a bare compiler package has not.
sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$(readlink -f "$nvcc")")/compute-sanitizer")
sanitized='"not run: no compute-sanitizer"'
if [ -x "$sanitizer" ]; then
  sanitized='"clean"'
  for tool in memcheck racecheck initcheck; do
    "$sanitizer" --tool $tool --error-exitcode 9 "$dir/kernels_gpu" "$dir/few.json" --few || { sanitized="\"$tool failed\""; code=1; break; }
  done
else
  echo "no compute-sanitizer: not run"
fi

measured=null
if "$dir/kernels_gpu_bench" "$dir/bench.json"; then measured=$(cat "$dir/bench.json"); else code=1; fi
bundled=
for program in $programs; do
  outcome='"not run: no --ucx"'
  if [ -x "$bundle/$program" ]; then
    LD_LIBRARY_PATH="$bundle/lib" "$bundle/$program" "$dir/$program.json" || code=1
    outcome=$(cat "$dir/$program.json" 2>/dev/null || echo '"failed, see above"')
  fi
  bundled="$bundled, \"$program\": $outcome"
done
report "{\"built\": true, \"ran\": true, \"tests\": $(cat "$dir/tests.json"), \"sanitizer\": $sanitized, \"bench\": $measured$bundled}"
exit $code
