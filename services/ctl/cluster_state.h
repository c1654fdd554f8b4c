// What `stemctl cluster up` leaves behind in DIR/cluster.json for every later command: which processes make up the
// local cluster, where they listen, and with what they were started.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/process.h"

namespace stem {

struct ClusterMember {
  std::string name;         // "directory", "node-1", ...
  ProcessIdentity process;  // pid 0 until it is started
  std::string socket;       // nodes: path of the gRPC Unix socket; its attach socket is that path + ".attach"
  std::string listen;       // host:port of its gRPC service on TCP; empty until it is ready
  std::string http;         // host:port of /metrics; empty until it is ready
};

// Paths are below `dir`, which is absolute.
struct ClusterState {
  std::string dir;
  uint64_t dram_bytes = 0;  // of each node
  uint64_t ssd_bytes = 0;   // of each node; 0 = no SSD tier
  std::string policy = "stem";
  std::string admission = "always";
  bool admin = false;
  bool map_host_peers = true;
  ClusterMember directory;
  std::vector<ClusterMember> nodes;

  std::string secret_path() const { return dir + "/secret"; }
  std::string member_dir(const ClusterMember& member) const { return dir + "/" + member.name; }
  std::string ready_path(const ClusterMember& member) const { return member_dir(member) + "/ready.json"; }
  std::string log_path(const ClusterMember& member) const { return dir + "/logs/" + member.name + ".log"; }
};

// What gRPC calls a target: a socket's path becomes "unix:///its/absolute/path", anything else stays.
std::string GrpcTarget(const std::string& target);

// Errors: NotFound (no cluster was started in `dir`), DataLoss (a file that `up` did not write).
absl::StatusOr<ClusterState> ReadClusterState(const std::string& dir);

// At once or not at all. Errors: Unavailable.
absl::Status WriteClusterState(const ClusterState& state);

}  // namespace stem
