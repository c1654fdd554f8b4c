// A local cluster of real processes: one directory and some nodes on this machine, started detached and stopped again.
#pragma once

#include <cstdint>
#include <string>

#include "proto/status.h"
#include "services/ctl/cluster_state.h"

namespace stem {

struct ClusterUpOptions {
  std::string dir;                   // made when it is not there; its SSD tiers and secret survive `down`
  uint32_t nodes = 3;                // 1..64
  uint64_t dram_bytes = 512 << 20;   // of each node
  uint64_t ssd_bytes = 0;            // of each node; 0 = no SSD tier
  std::string policy = "stem";       // who leaves DRAM first
  std::string admission = "always";  // who is worth a write to SSD
  bool admin = false;                // the console takes orders
  bool map_host_peers = true;        // false: nodes read each other through the transport
  std::string binaries;              // folder of stem-directory and stem-node
};

// Starts every process and returns once all are ready. When one fails, all that were started are stopped again, and the
// error is that process's own last line. Errors: FailedPrecondition (a cluster is running in `dir`), InvalidArgument
// (a path too long for a Unix socket), Unavailable.
absl::StatusOr<ClusterState> ClusterUp(const ClusterUpOptions& options);

// Starts those members again that are no longer running, as they were started before (the directory under its old
// address). Errors: NotFound (no cluster in `dir`), Unavailable; members that run are left alone.
absl::StatusOr<ClusterState> ClusterResume(const std::string& dir, const std::string& binaries);

struct ClusterDownResult {
  uint32_t stopped = 0;      // ended on SIGTERM
  uint32_t killed = 0;       // needed SIGKILL
  uint32_t not_running = 0;  // had ended before
};

// Nodes first, so that they can withdraw what they hold. Never signals a process that this cluster did not start.
absl::StatusOr<ClusterDownResult> ClusterDown(const std::string& dir);

}  // namespace stem
