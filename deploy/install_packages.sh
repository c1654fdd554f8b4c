#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need and that are missing; says nothing and takes a fraction
# of a second when all are there. Usage: deploy/install_packages.sh. Needs root or sudo only to install.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git binutils python3-minimal python3-venv python3-dev
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev libssl-dev
  libucx-dev librocksdb-dev libxxhash-dev
  libspdlog-dev libfmt-dev libcli11-dev nlohmann-json3-dev libcpp-httplib-dev prometheus-cpp-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  etcd-server  # for tests alone, which start their own: see keep_etcd_down
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

# Debian enables and starts etcd when it is installed; nobody asked for that service here. It is masked and disabled for good (who
# wants it unmasks it) and, where there is no systemd, refused by a policy for as long as the installation takes. Neither replaces
# what an administrator put there, and an etcd that was here before is not touched.
unit=/etc/systemd/system/etcd.service
policy=/usr/sbin/policy-rc.d
policy_mark="# stemcache: no etcd service while the package is installed"
new_etcd=
for package in "${missing[@]}"; do [ "$package" != etcd-server ] || new_etcd=yes; done
keep_etcd_down() {
  if [ ! -e "$unit" ] && [ ! -L "$unit" ]; then
    "${as_root[@]}" mkdir -p "${unit%/*}"
    "${as_root[@]}" ln -s /dev/null "$unit"
    echo "etcd-server comes for the tests; its service stays down (systemctl unmask etcd to use it)"
  fi
  [ -e "$policy" ] && return 0
  printf '#!/bin/sh\n%s\n[ "$1" = etcd ] && exit 101\nexit 0\n' "$policy_mark" | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
}

echo "installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
finish() {
  rm -f "$log"
  if grep -qsxF "$policy_mark" "$policy"; then "${as_root[@]}" rm -f "$policy"; fi
}
trap finish EXIT
[ -z "$new_etcd" ] || keep_etcd_down
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
[ -z "$new_etcd" ] || "${as_root[@]}" update-rc.d etcd disable >/dev/null 2>&1 || true
