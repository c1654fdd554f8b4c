// The fleet: who the members of a cluster are and what has been settled for all of them. Told by etcd, or by the config file when
// there is none. Keys and values: README.md, "The fleet in etcd".
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/namespace_spec.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/log.h"
#include "services/runtime/metrics_page.h"

namespace stem {

// A member as it registered itself. Gone some seconds after its process is, at once when that ends well.
struct FleetMember {
  std::string name;           // of a node; of a directory its address, which names it
  uint64_t incarnation = 0;   // one life of the process; 0 = not known (a directory named in a config file)
  std::string address;        // host:port for other members
  std::string host_id;        // equal for processes that share a kernel
  std::string zone;           // as configured; empty = none

  friend bool operator==(const FleetMember&, const FleetMember&) = default;
};

// A tenant: whose processes share memory on a node, and how much of each tier it gets on each.
struct FleetTenant {
  std::vector<uid_t> uids;   // a user belongs to one tenant
  uint64_t dram_bytes = 0;
  uint64_t ssd_bytes = 0;    // 0 = a share by DRAM

  friend bool operator==(const FleetTenant&, const FleetTenant&) = default;
};

// A group whose namespaces are shared by tenants (law 9): who may read there and who may publish.
struct FleetSharedGroup {
  std::vector<std::string> readers;     // tenants
  std::vector<std::string> publishers;  // tenants
  uint64_t dram_bytes = 0;
  HashScheme hash_scheme = HashScheme::kSha256;

  friend bool operator==(const FleetSharedGroup&, const FleetSharedGroup&) = default;
};

// A namespace that an operator has settled: one that attaches under the same model and owner but differs is a mistake (law 11).
struct FleetNamespace {
  std::string owner;  // a tenant or a shared group
  NamespaceSpec spec;

  friend bool operator==(const FleetNamespace&, const FleetNamespace&) = default;
};

// Everything that was known at one moment; immutable.
struct FleetSnapshot {
  int64_t revision = 0;                              // of etcd's store; 0 = etcd has not been heard
  std::vector<FleetMember> directories;              // by address. Never emptied by etcd: the last one is kept, see EtcdFleet
  std::map<std::string, FleetMember> nodes;          // by name, as all below
  std::map<std::string, FleetTenant> tenants;
  std::map<std::string, FleetSharedGroup> shared_groups;
  std::map<std::string, FleetNamespace> namespaces;
  std::shared_ptr<const ClusterSecret> secret;       // null = none is kept there
};

struct FleetHealth {
  bool connected = false;   // the watch stands. When not, membership is frozen as it was; always true without etcd
  bool registered = false;  // others see this process; always false without etcd
  int64_t revision = 0;
  size_t directories = 0;
  size_t nodes = 0;
  size_t refused = 0;       // values that are there and will not do
};

// Threads: any.
class FleetSource {
 public:
  using OnChange = std::function<void(const std::shared_ptr<const FleetSnapshot>&)>;

  // Leave().
  virtual ~FleetSource() = default;

  // The newest. Never null.
  virtual std::shared_ptr<const FleetSnapshot> snapshot() const = 0;
  // Calls `on_change` soon with snapshot(), then whenever that has changed, newest only, one call at a time on a thread of its
  // own. Once.
  virtual void Follow(OnChange on_change) = 0;
  // Keeps this process registered, from now on and whenever etcd can be reached. Once, one of both.
  virtual void RegisterNode(const FleetMember& self) = 0;
  virtual void RegisterDirectory(const FleetMember& self) = 0;
  virtual FleetHealth health() const = 0;
  // After it, `on_change` is not called any more and this process is registered no longer. From one thread, once or more.
  virtual void Leave() = 0;
};

struct FleetOptions {
  std::vector<std::string> etcd;             // host:port each; none = no etcd
  std::string prefix = "/stemcache/default";  // of this cluster's keys, without the last slash
  std::string zone;                          // of this process; directories of the same one are preferred
  absl::Duration lease = absl::Seconds(5);   // a member that dies is gone after it; etcd rounds up to 2 s or more
  absl::Duration first_wait = absl::Seconds(5);  // for etcd at start, before going on without
};

// Declares --etcd, --etcd-prefix, --etcd-lease and --zone.
void AddOptions(CLI::App& app, FleetOptions& options);

// Errors: InvalidArgument naming the flag.
absl::Status CheckFleetOptions(const FleetOptions& options);
// Whether `name` can be a member's with these options: it becomes part of a key. Errors: InvalidArgument.
absl::Status CheckMemberName(const FleetOptions& options, absl::string_view name);

// The fleet by these options. `directories` (host:port each) is the list without etcd, and with it until etcd names some. Waits
// for etcd at most `first_wait`; without an answer it warns, goes on, and asks again for ever. `log` is borrowed.
absl::StatusOr<std::unique_ptr<FleetSource>> OpenFleet(const FleetOptions& options,
                                                       const std::vector<std::string>& directories, Logger& log);

// The secret from `file`, or where that is empty from the fleet. Errors: as ClusterSecret::Read; FailedPrecondition (both are
// there and differ), InvalidArgument (neither is).
absl::StatusOr<ClusterSecret> SecretOf(const std::string& file, const FleetSnapshot& fleet, Logger& log);

// Addresses of the fleet's directories: of this host first, then of this zone, then the others; among equals in an order that
// differs from asker to asker, so that load spreads.
std::vector<std::string> NearestDirectories(const FleetSnapshot& fleet, const FleetMember& asker);

// Names one life of a process: random, never 0.
uint64_t NewIncarnation();

// Equal for processes on one kernel: its boot id; empty where there is none.
std::string HostId();

// stemcache_fleet_*.
void AddFleetGauges(MetricsPage& page, const FleetHealth& health);

}  // namespace stem
