// A whole directory, ready to run inside any process: what stem-directory is, and what tests embed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "services/runtime/fleet.h"
#include "services/runtime/log.h"
#include "services/runtime/tracing.h"

namespace stem {

struct DirectoryConfig {
  std::string listen = "127.0.0.1:7400";  // gRPC, host:port; port 0 = any
  std::string http = "127.0.0.1:7401";    // the console, /metrics and /healthz; port 0 = any
  std::string secret_file;                // the cluster's secret, >= 32 bytes; empty = etcd's
  FleetOptions fleet;
  uint32_t heartbeat_ms = 100;            // 10..10000: a stream silent for longer makes matches stale
  uint32_t stale_ms_max = 2000;           // 100..60000: how long a silent node's blocks are offered; then it is lost
  uint64_t index_bytes_max = 4ULL << 30;  // 64 MiB..64 GiB: memory of the index; beyond it, blocks are forgotten
  uint64_t ghosts_max = 4'000'000;        // 0..1e9 departed blocks remembered, 8 bytes each, of index_bytes_max
  TracingOptions tracing;
  bool console = true;                    // serve the console: whoever reaches `http` reads what tenants ask for
  bool admin = false;                     // the console takes orders from who shows its token; `http` must be loopback then
  bool insecure_allow_remote = false;     // allow listen and http to be other than loopback
};

// Everything that can be known to be wrong before listening. Errors: InvalidArgument names flag, value and what is
// right; Unavailable (the secret file cannot be read).
absl::Status CheckConfig(const DirectoryConfig& config, Logger& log);

class Directory {
 public:
  // Listens and serves when this returns. `log` must outlive the directory. Errors: as CheckConfig, and Unavailable
  // for an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<Directory>> Start(const DirectoryConfig& config, Logger& log);
  ~Directory();  // Stop(1 s)
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;

  // Bound addresses, "host:port".
  std::string listen_address() const;
  std::string http_address() const;

  // What the console wants to see of who orders; empty = it takes no orders.
  const std::string& admin_token() const;

  // Turns unhealthy, ends streams, lets calls finish for at most `drain_max`, stops. Once; later calls do nothing.
  void Stop(absl::Duration drain_max);

 private:
  struct Running;
  explicit Directory(std::unique_ptr<Running> running);

  std::unique_ptr<Running> running_;
};

}  // namespace stem
