#include "services/runtime/fleet.h"

#include <openssl/rand.h>

#include <algorithm>
#include <fstream>
#include <thread>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "proto/status.h"
#include "services/runtime/config.h"
#include "services/runtime/etcd_fleet.h"
#include "services/runtime/listen.h"

namespace stem {
namespace {

// What the config file says, for good.
class StaticFleet final : public FleetSource {
 public:
  explicit StaticFleet(FleetSnapshot snapshot) : snapshot_(std::make_shared<const FleetSnapshot>(std::move(snapshot))) {}
  ~StaticFleet() override { Leave(); }
  StaticFleet(const StaticFleet&) = delete;
  StaticFleet& operator=(const StaticFleet&) = delete;

  std::shared_ptr<const FleetSnapshot> snapshot() const override { return snapshot_; }
  void Follow(OnChange on_change) override {
    STEM_CHECK(!teller_.joinable());
    teller_ = std::thread([snapshot = snapshot_, tell = std::move(on_change)] { tell(snapshot); });
  }
  void RegisterNode(const FleetMember&) override {}
  void RegisterDirectory(const FleetMember&) override {}
  FleetHealth health() const override { return {.connected = true, .directories = snapshot_->directories.size()}; }
  void Leave() override {
    if (teller_.joinable()) teller_.join();
  }

 private:
  const std::shared_ptr<const FleetSnapshot> snapshot_;
  std::thread teller_;
};

// FNV-1a: the same everywhere, so that an asker keeps its order over restarts. Any spread will do.
uint64_t Spread(absl::string_view asker, absl::string_view directory) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const absl::string_view text : {asker, absl::string_view("\0", 1), directory}) {
    for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  }
  hash ^= hash >> 32;  // the last bytes, often a port, reach the low bits only
  return hash * 0x9e3779b97f4a7c15;
}

}  // namespace

void AddOptions(CLI::App& app, FleetOptions& options) {
  app.add_option("--etcd", options.etcd, "etcd endpoints, host:port, for membership and settings; none = this config alone")
      ->delimiter(',');
  app.add_option("--etcd-prefix", options.prefix, "What this cluster's keys in etcd begin with")->capture_default_str();
  AddDurationOption(app, "--etcd-lease", options.lease, {absl::Seconds(1), absl::Minutes(5)},
                    "How long after its last word a member counts as gone");
  app.add_option("--zone", options.zone, "Zone of this process, e.g. a rack; directories of the same one are asked first");
}

absl::Status CheckFleetOptions(const FleetOptions& options) {
  if (options.etcd.size() > kEtcdEndpointsMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--etcd: ", options.etcd.size(), " endpoints are named; name at most ", kEtcdEndpointsMax));
  }
  for (const std::string& endpoint : options.etcd) {
    if (const absl::StatusOr<HostPort> address = ParseHostPort(endpoint); !address.ok() || address->port == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--etcd: '", endpoint, "' is not an endpoint; use e.g. 127.0.0.1:2379"));
    }
  }
  if (options.prefix.size() < 2 || options.prefix.size() > 256 || options.prefix[0] != '/' || options.prefix.back() == '/') {
    return absl::InvalidArgumentError(absl::StrCat("--etcd-prefix: '", options.prefix,
                                                   "' must begin with '/', not end with it, and have 2 to 256 bytes; use e.g. ",
                                                   "/stemcache/my-cluster"));
  }
  if (options.zone.size() > 128) {
    return absl::InvalidArgumentError(absl::StrCat("--zone: '", options.zone, "' has more than 128 bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckMemberName(const FleetOptions& options, absl::string_view name) {
  if (options.etcd.empty() || (!absl::StrContains(name, '/') && !name.empty() && name.size() <= 128)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--name: '", name, "' must have 1 to 128 bytes and no '/', as it becomes part of a key in etcd"));
}

absl::StatusOr<std::unique_ptr<FleetSource>> OpenFleet(const FleetOptions& options,
                                                       const std::vector<std::string>& directories, Logger& log) {
  STEM_TRY(CheckFleetOptions(options));
  FleetSnapshot seed;
  for (const std::string& address : directories) seed.directories.push_back({.name = address, .address = address});
  if (options.etcd.empty()) return std::make_unique<StaticFleet>(std::move(seed));
  auto fleet = std::make_unique<EtcdFleet>(options, std::move(seed), log);
  if (!fleet->WaitForFirst(options.first_wait)) {
    log.Warn("etcd_not_heard", {{"endpoints", options.etcd.size()}, {"first", options.etcd.front()}});
  }
  return fleet;
}

absl::StatusOr<ClusterSecret> SecretOf(const std::string& file, const FleetSnapshot& fleet, Logger& log) {
  if (file.empty()) {
    if (fleet.secret != nullptr) return *fleet.secret;
    return absl::InvalidArgumentError(
        "--secret-file is not set, and no secret is kept in etcd; name a file of 32 bytes or more that all members share");
  }
  STEM_ASSIGN(ClusterSecret secret, ClusterSecret::Read(file, log));
  if (fleet.secret != nullptr && !std::equal(secret.bytes().begin(), secret.bytes().end(), fleet.secret->bytes().begin(),
                                             fleet.secret->bytes().end())) {
    return absl::FailedPreconditionError(
        absl::StrCat("--secret-file: '", file, "' is not the secret that etcd has for this cluster; use one of them"));
  }
  return secret;
}

std::vector<std::string> NearestDirectories(const FleetSnapshot& fleet, const FleetMember& asker) {
  // A config file lists the nearest first: its order stands.
  if (fleet.revision == 0) {
    std::vector<std::string> addresses;
    for (const FleetMember& directory : fleet.directories) addresses.push_back(directory.address);
    return addresses;
  }
  std::vector<std::tuple<int, uint64_t, std::string>> ranked;
  for (const FleetMember& directory : fleet.directories) {
    const bool same_host = !asker.host_id.empty() && directory.host_id == asker.host_id;
    const bool same_zone = !asker.zone.empty() && directory.zone == asker.zone;
    ranked.emplace_back(same_host ? 0 : same_zone ? 1 : 2, Spread(asker.name, directory.address), directory.address);
  }
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::string> addresses;
  for (const auto& [rank, spread, address] : ranked) addresses.push_back(address);
  return addresses;
}

uint64_t NewIncarnation() {
  uint64_t incarnation = 0;
  while (incarnation == 0) {
    STEM_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&incarnation), sizeof(incarnation)) == 1);
  }
  return incarnation;
}

std::string HostId() {
  std::ifstream in("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(in, id);
  return id;
}

void AddFleetGauges(MetricsPage& page, const FleetHealth& health) {
  page.Gauge("stemcache_fleet_connected", "1 while etcd is followed, or not used; else membership is frozen", health.connected ? 1 : 0);
  page.Gauge("stemcache_fleet_registered", "1 while others find this process in etcd", health.registered ? 1 : 0);
  page.Gauge("stemcache_fleet_revision", "Revision of etcd's store that is known here", static_cast<double>(health.revision));
  page.Gauge("stemcache_fleet_refused_values", "Values in etcd that will not do; the log says why", static_cast<double>(health.refused));
  for (const auto& [kind, count] : {std::pair("directory", health.directories), std::pair("node", health.nodes)}) {
    page.Gauge("stemcache_fleet_members", "Members that are known, by kind", static_cast<double>(count), {{"kind", kind}});
  }
}

}  // namespace stem
