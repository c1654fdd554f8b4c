#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need and that are missing; says nothing and takes a fraction
# of a second when all are there. Usage: deploy/install_packages.sh. Needs root or sudo only to install.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git binutils python3-minimal
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev libssl-dev
  libucx-dev librocksdb-dev libxxhash-dev
  libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libcpp-httplib-dev prometheus-cpp-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)

fail() {
  echo "install_packages: $*" >&2
  exit 1
}

command -v dpkg-query >/dev/null || fail "no dpkg here; this needs Debian 12 or an Ubuntu with the same packages"

# One call for all: "NAME STATUS" a line; packages that dpkg never heard of are only in its complaint.
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' "${packages[@]}" 2>/dev/null | awk '$2 == "installed" {print $1}' || true)
missing=()
for package in "${packages[@]}"; do
  grep -qxF -- "$package" <<<"$installed" || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "missing: ${missing[*]}; run as root or install sudo"
  as_root=(sudo)
fi
echo "installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    fail "apt-get $1 failed (its last lines are above)"
  fi
}
# Lists that are there may do; they are fetched again only when the installation does not go through with them.
if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 \
     install -y -q --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
  apt update -q
  apt install -y -q --no-install-recommends "${missing[@]}"
fi
