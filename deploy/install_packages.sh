#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need and that are missing; says nothing and takes a fraction
# of a second when all are there. Usage: deploy/install_packages.sh [browser]. Needs root or sudo only to install.
#   browser   instead: what the console's tests and build need, a Chromium and, where there is no npm, Node.js
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git binutils python3-minimal python3-venv python3-dev
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev libssl-dev
  libucx-dev librocksdb-dev libxxhash-dev
  libspdlog-dev libfmt-dev libncurses-dev libcli11-dev nlohmann-json3-dev libcpp-httplib-dev prometheus-cpp-dev
  libzmq3-dev cppzmq-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  etcd-server prometheus  # for tests alone, which start their own: see keep_services_down
)

case "${1:-}" in
  "") ;;
  browser)
    packages=(chromium)
    command -v npm >/dev/null || packages+=(nodejs npm) ;;
  *) echo "install_packages: unknown argument $1; browser or nothing" >&2; exit 2 ;;
esac

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

# Debian enables and starts these when they are installed; nobody asked for those services here. They are masked and disabled for good (who
# wants one unmasks it) and, where there is no systemd, refused by a policy for as long as the installation takes. Neither replaces
# what an administrator put there, and one that was here before is not touched.
declare -A service_of=([etcd-server]=etcd [prometheus]=prometheus)
policy=/usr/sbin/policy-rc.d
policy_mark="# stemcache: services that only tests need stay down while their packages are installed"
new_services=()
for package in "${missing[@]}"; do [ -z "${service_of[$package]:-}" ] || new_services+=("${service_of[$package]}"); done
keep_services_down() {
  local service unit
  for service in "${new_services[@]}"; do
    unit=/etc/systemd/system/$service.service
    if [ ! -e "$unit" ] && [ ! -L "$unit" ]; then
      "${as_root[@]}" mkdir -p "${unit%/*}"
      "${as_root[@]}" ln -s /dev/null "$unit"
      echo "$service comes for the tests; its service stays down (systemctl unmask $service to use it)"
    fi
  done
  [ -e "$policy" ] && return 0
  printf '#!/bin/sh\n%s\ncase "$1" in %s) exit 101 ;; esac\nexit 0\n' "$policy_mark" "$(IFS='|'; echo "${new_services[*]}")" |
    "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
}

echo "installing ${#missing[@]} packages: ${missing[*]}"
log=$(mktemp)
finish() {
  rm -f "$log"
  if grep -qsxF "$policy_mark" "$policy"; then "${as_root[@]}" rm -f "$policy"; fi
}
trap finish EXIT
[ ${#new_services[@]} -eq 0 ] || keep_services_down
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
for service in "${new_services[@]}"; do "${as_root[@]}" update-rc.d "$service" disable >/dev/null 2>&1 || true; done
