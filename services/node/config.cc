#include "services/node/config.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/directory_stub.h"
#include "services/runtime/config.h"
#include "storage/policy/admission.h"
#include "storage/policy/name_table.h"
#include "storage/policy/policies.h"

namespace stem {
namespace {

constexpr uint64_t kDramBytesMin = 1ULL << 20;
constexpr uint64_t kTierBytesMax = 1ULL << 46;

std::string HostName() {
  char name[256] = {};
  if (gethostname(name, sizeof(name) - 1) != 0) return "node";
  return name;
}

absl::Status CheckHostPort(absl::string_view text) { return ParseHostPort(text).status(); }

}  // namespace

void AddOptions(CLI::App& app, NodeConfig& config) {
  config.name = HostName();
  app.add_option("--name", config.name, "Name of this node, unique in the cluster")->capture_default_str();
  app.add_option("--socket", config.socket, "Unix socket for clients; their attach socket is this path with .attach")
      ->capture_default_str();
  AddCheckedOption(app, "--listen", config.listen, CheckHostPort, "Address for other nodes, host:port; port 0 = any");
  AddCheckedOption(app, "--http", config.http, CheckHostPort, "Address for /metrics and /healthz, host:port; port 0 = any");
  app.add_option("--directory", config.directories, "Directories to announce to and ask, host:port, nearest first; with --etcd until it names some")
      ->delimiter(',');
  AddOptions(app, config.fleet);
  app.add_option("--secret-file", config.secret_file, "File with the cluster's secret, at least 32 bytes; empty: etcd's")
      ->capture_default_str();
  AddBytesOption(app, "--dram", config.dram_bytes, {kDramBytesMin, kTierBytesMax},
                 "Memory for blocks, allocated at start; of group 'default' (this process's user)");
  app.add_option("--group", config.groups,
                 "Trust group whose processes share memory, NAME=UID[+UID...]@BYTES; replaces --dram")
      ->delimiter(',');
  AddBytesOption(app, "--staging", config.staging_bytes, {0, kTierBytesMax}, "Memory for publishing, all clients together");
  AddBytesOption(app, "--ssd", config.ssd_bytes, {0, kTierBytesMax}, "Disk for cold blocks; 0 = no SSD tier");
  app.add_option("--ssd-dir", config.ssd_dir, "Directory of the SSD tier")->capture_default_str();
  AddCheckedOption(app, "--policy", config.policy, [](absl::string_view text) { return ParsePolicy(text).status(); },
                   absl::StrCat("Who leaves DRAM first: ", NamesOf(AllPolicies())));
  AddCheckedOption(app, "--admission", config.admission, [](absl::string_view text) { return ParseAdmission(text).status(); },
                   absl::StrCat("Who is worth a write to SSD: ", NamesOf(AllAdmissions())));
  AddDurationOption(app, "--lease", config.lease, {absl::Milliseconds(100), absl::Minutes(5)},
                    "How long a peer may read leased blocks");
  AddDurationOption(app, "--reservation", config.reservation_max, {absl::Milliseconds(100), absl::Minutes(10)},
                    "How long a client may take from Reserve to Commit");
  AddDurationOption(app, "--heartbeat", config.heartbeat, {absl::Milliseconds(5), absl::Seconds(10)},
                    "Longest silence towards a directory; at most half of the directories' --heartbeat-ms");
  AddDurationOption(app, "--scrub-period", config.scrub_period, {absl::ZeroDuration(), absl::Hours(24 * 365)},
                    "In which every block in memory is proved again, in the background; 0s = never");
  app.add_option("--fetch-threads", config.fetch_threads, "Acquires that wait for disk or peers at a time")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--copy-threads", config.copy_threads, "Commits that are copied at a time")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--map-host-peers", config.map_host_peers,
                 "Read the memory of other nodes on this host in place, and not through the transport")
      ->capture_default_str();
  app.add_option("--ucx-tls", config.ucx_tls, "UCX transports; empty: RDMA where there is any, else tcp");
  AddBytesOption(app, "--lane-min-bytes-per-second", config.lane_min_bytes_per_second, {0, kTierBytesMax},
                 "Least that each UCX lane must do when it is measured at start, e.g. 2GiB; 0 = any");
  app.add_option("--kv-events", config.kv_events.endpoint,
                 "Follow this engine's own cache: the endpoint of vLLM's --kv-events-config, e.g. ipc:///run/stemcache/kv-events; the node listens "
                 "where vLLM connects, at tcp:// without *");
  app.add_option("--kv-events-replay", config.kv_events.replay, "Its replay_endpoint, for what was missed");
  app.add_option("--kv-events-namespace", config.kv_events.namespace_file, "File that the engine's connector wrote (its setting namespace_file), as a user of the trust group that is followed");
  app.add_option("--ready-file", config.ready_file, "Written, as JSON, once clients and peers may connect");
  AddOptions(app, config.tracing);
  AddCheckedOption(app, "--log-format", config.log_format,
                   [](absl::string_view text) { return ParseLogFormat(text).status(); }, "text or json");
  AddCheckedOption(app, "--log-level", config.log_level,
                   [](absl::string_view text) { return ParseLogLevel(text).status(); }, "debug, info, warn or error");
  app.add_flag("--insecure-allow-remote", config.insecure_allow_remote,
               "Let TCP listeners bind other addresses than loopback; nothing encrypts them");
}

absl::StatusOr<TrustGroup> ParseTrustGroup(absl::string_view text) {
  const auto bad = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("--group: '", text, "' ", why, "; use NAME=UID[+UID...]@BYTES, e.g. chat=1000+1001@4GiB"));
  };
  const std::vector<std::string> name_rest = absl::StrSplit(text, absl::MaxSplits('=', 1));
  if (name_rest.size() != 2 || name_rest[0].empty()) return bad("has no name");
  const std::vector<std::string> uids_bytes = absl::StrSplit(name_rest[1], absl::MaxSplits('@', 1));
  if (uids_bytes.size() != 2) return bad("has no size");
  TrustGroup group{.name = name_rest[0]};
  for (absl::string_view uid_text : absl::StrSplit(uids_bytes[0], '+')) {
    uint32_t uid = 0;
    if (!absl::SimpleAtoi(uid_text, &uid)) return bad(absl::StrCat("has '", uid_text, "' where a user id belongs"));
    group.uids.push_back(uid);
  }
  const absl::StatusOr<uint64_t> bytes = ParseBytes(uids_bytes[1]);
  if (!bytes.ok() || *bytes < kDramBytesMin) {
    return bad(absl::StrCat("has '", uids_bytes[1], "' where a size of at least 1MiB belongs"));
  }
  group.dram_bytes = *bytes;
  return group;
}

absl::StatusOr<std::vector<TrustGroup>> TrustGroupsOf(const NodeConfig& config, const FleetSnapshot& fleet) {
  if (config.groups.empty() && !fleet.tenants.empty()) {
    std::vector<TrustGroup> groups;
    for (const auto& [name, tenant] : fleet.tenants) {
      groups.push_back({.name = name, .uids = tenant.uids, .dram_bytes = tenant.dram_bytes, .ssd_bytes = tenant.ssd_bytes});
    }
    return groups;
  }
  if (config.groups.empty()) {
    return std::vector<TrustGroup>{{.name = "default", .uids = {geteuid()}, .dram_bytes = config.dram_bytes}};
  }
  std::vector<TrustGroup> groups;
  for (const std::string& text : config.groups) {
    STEM_ASSIGN(TrustGroup group, ParseTrustGroup(text));
    for (const TrustGroup& other : groups) {
      if (other.name == group.name) {
        return absl::InvalidArgumentError(absl::StrCat("--group: '", group.name, "' is named twice; name each group once"));
      }
      for (uid_t uid : group.uids) {
        if (std::find(other.uids.begin(), other.uids.end(), uid) == other.uids.end()) continue;
        return absl::InvalidArgumentError(absl::StrCat("--group: user ", uid, " is in groups '", other.name, "' and '",
                                                       group.name, "'; a user belongs to one group"));
      }
    }
    groups.push_back(std::move(group));
  }
  return groups;
}

absl::Status CheckDirectories(const std::vector<std::string>& directories) {
  if (directories.size() > kDirectoriesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("--directory: ", directories.size(), " are named; name at most ", kDirectoriesMax));
  }
  for (const std::string& directory : directories) {
    if (const absl::StatusOr<HostPort> address = ParseHostPort(directory); !address.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--directory: ", address.status().message()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckConfig(const NodeConfig& config) {
  if (config.name.empty() || config.name.size() > 128) {
    return absl::InvalidArgumentError(absl::StrCat("--name: '", config.name, "' must have 1 to 128 bytes"));
  }
  STEM_TRY(CheckDirectories(config.directories));
  STEM_TRY(CheckFleetOptions(config.fleet));
  STEM_TRY(CheckTracingOptions(config.tracing));
  STEM_TRY(CheckMemberName(config.fleet, config.name));
  STEM_TRY(CheckEngineFollower(config.kv_events));
  return TrustGroupsOf(config).status();
}

}  // namespace stem
