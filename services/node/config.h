// What a node is told at start: flags or the same names in a config file. Checked before anything is opened.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/time/time.h"
#include "proto/status.h"
#include "services/node/engines/engine_follower.h"
#include "services/node/spaces/space_table.h"
#include "services/runtime/fleet.h"
#include "services/runtime/listen.h"
#include "services/runtime/log.h"
#include "services/runtime/tracing.h"

namespace stem {

struct NodeConfig {
  std::string name;                        // unique in the cluster; default: this host's name
  std::string socket = "/run/stemcache/node.sock";  // clients' gRPC; the attach socket is this with ".attach"
  std::string listen = "127.0.0.1:7410";   // other nodes' gRPC
  std::string http = "127.0.0.1:7411";     // metrics and health
  std::vector<std::string> directories;    // host:port each; none = only this node's own blocks, or those that etcd names
  FleetOptions fleet;
  std::string secret_file = "/etc/stemcache/secret";  // empty = etcd's
  uint64_t dram_bytes = 1ULL << 30;        // of the default group, unless groups are named
  std::vector<std::string> groups;         // NAME=UID[+UID...]@BYTES each; empty: etcd's tenants, or "default" of this user
  uint64_t staging_bytes = 1ULL << 30;     // for all clients together
  uint64_t ssd_bytes = 0;                  // 0 = no SSD tier
  std::string ssd_dir = "/var/lib/stemcache";
  std::string policy = "stem";             // who leaves DRAM first (storage/policy)
  std::string admission = "always";        // who is worth a write to SSD
  absl::Duration lease = absl::Seconds(10);           // a peer may read for so long
  absl::Duration reservation_max = absl::Seconds(30);  // from Reserve to Commit
  absl::Duration heartbeat = absl::Milliseconds(50);   // half of what directories expect
  absl::Duration scrub_period = absl::Hours(6);        // in which every block in memory is proved again; 0 = never
  uint32_t fetch_threads = 4;
  uint32_t copy_threads = 2;
  bool map_host_peers = true;              // read peers of this host in place
  std::string ucx_tls;                     // UCX_TLS expression; empty: RDMA where there is any, else TCP
  uint64_t lane_min_bytes_per_second = 0;  // of every UCX lane, measured at start; 0 = none
  EngineFollowerOptions kv_events;         // of this host's engine; no endpoint = none
  std::string ready_file;
  TracingOptions tracing = TracingOptions();
  std::string log_format = "text";
  std::string log_level = "info";
  bool insecure_allow_remote = false;
  bool counts = true;  // no flag: false for tests/bench/watching_cost alone, which measures what counting costs
};

// Declares every option on `app`; `config` holds the defaults and gets the values.
void AddOptions(CLI::App& app, NodeConfig& config);

// "NAME=UID[+UID...]@BYTES". Errors: InvalidArgument.
absl::StatusOr<TrustGroup> ParseTrustGroup(absl::string_view text);

// The groups that the config means, or where it names none, the fleet's tenants.
absl::StatusOr<std::vector<TrustGroup>> TrustGroupsOf(const NodeConfig& config, const FleetSnapshot& fleet = {});

// Addresses, and not too many. Errors: InvalidArgument.
absl::Status CheckDirectories(const std::vector<std::string>& directories);

// What can be checked without opening anything. Errors: InvalidArgument naming the flag.
absl::Status CheckConfig(const NodeConfig& config);

}  // namespace stem
