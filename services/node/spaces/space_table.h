// The namespaces that this node knows, and the memory of each trust group. Registration is where law 9 (whose memory may a
// caller see) and law 11 (agree or refuse) are kept.
#pragma once

#include <sys/types.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "proto/mutex.h"
#include "proto/namespace_spec.h"
#include "proto/probe.h"
#include "proto/status.h"
#include "services/runtime/fleet.h"
#include "storage/pool/arena.h"
#include "storage/pool/block_pool.h"

namespace stem {

inline constexpr size_t kSpacesMax = 1024;  // namespaces on one node

// The processes that share memory: one tenant, or a declared shared group.
struct TrustGroup {
  std::string name;
  std::vector<uid_t> uids;  // whose processes may attach
  uint64_t dram_bytes = 0;
  uint64_t ssd_bytes = 0;   // 0 = a share of the node's, by DRAM
};

// A trust group's arena, allocated at start, and its pool, cut when the first namespace tells the block size.
struct GroupMemory {
  uint32_t arena_id = 0;
  TrustGroup group;
  Arena arena;
  std::optional<Arena> slot_map;    // of the pool, for clients; set with it
  std::unique_ptr<BlockPool> pool;  // null until the first namespace; set once
  uint64_t dram_bytes_max = 0;      // the operator's quotas, of the table; 0 = none set
  uint64_t ssd_bytes_max = 0;
};

// One namespace. Lives as long as the table, once registered.
struct Space {
  NamespaceSpec spec;
  NamespaceFingerprint fingerprint;
  Root root = {};
  ProbeKey probe_key = {};
  GroupMemory* memory = nullptr;
  uint32_t number = 0;  // below kSpacesMax, of this table's one

  BlockPool& pool() const { return *memory->pool; }
};

class SpaceTable {
 public:
  struct Options {
    std::vector<TrustGroup> groups;
    uint64_t ssd_bytes = 0;        // shared out among the groups by their DRAM
    PolicyKind policy = PolicyKind::kStem;  // of every pool
    AdmissionKind admission = AdmissionKind::kAlways;
    std::string registry_path;     // where namespaces are kept for the next start; empty = nowhere
    std::function<void(const BlockChange&)> on_change;
    std::function<void(const BlockLeft&)> on_leave;
    // Told of every namespace when it is registered, under this table's lock. These three may be empty.
    std::function<void(const Space&)> on_space;
  };

  // Allocates the arenas and registers what `registry_path` remembers. Errors: ResourceExhausted (memory),
  // DataLoss (the registry is damaged).
  static absl::StatusOr<std::unique_ptr<SpaceTable>> Create(Options options, std::vector<uint8_t> cluster_secret);

  struct Registered {
    const Space* space = nullptr;
    std::vector<std::string> warnings;  // like-named namespaces that differ
  };
  // The namespace `spec` of the group that `uid` belongs to. Errors: PermissionDenied (no group), FailedPrecondition
  // (blocks that do not fit the group's slots, group kinds that this version cannot match, a namespace that is settled otherwise),
  // ResourceExhausted.
  absl::StatusOr<Registered> Register(const NamespaceSpec& spec, uid_t uid, const std::string& shared_group);

  // What the fleet has settled, for registrations from now on: namespaces that like-named ones must equal and, with `tenants`, whose
  // users may use which memory. Returns what can change only when the node starts anew, a line each; a tenant that is gone keeps its
  // users till then, because it may be etcd that lost it.
  std::vector<std::string> Settle(const FleetSnapshot& fleet, bool tenants);

  struct Quota {
    uint64_t dram_bytes = 0;
    uint64_t ssd_bytes = 0;
  };
  // Limits what a trust group uses of its arena and of the SSD tier, until the node ends; 0 = as it is. Returns what is in force, once what was too
  // much of DRAM has left that may leave at once; the rest follows by way of the spiller.
  // Errors: NotFound (no such group), InvalidArgument (more than there is, or less than a slot), FailedPrecondition (less than twice what is kept).
  absl::StatusOr<Quota> SetQuota(const std::string& group, const Quota& quota);
  // What is in force for it.
  Quota QuotaOf(const GroupMemory& memory) const;

  // Of the group that `uid` belongs to. Errors: PermissionDenied (no group).
  absl::StatusOr<const GroupMemory*> MemoryOf(uid_t uid) const;

  // Null when unknown.
  const Space* Find(const NamespaceFingerprint& fingerprint) const;

  // By model, then fingerprint.
  std::vector<const Space*> All() const;

  // Constant after Create.
  const std::vector<std::unique_ptr<GroupMemory>>& memories() const { return memories_; }
  // Pools that exist now.
  std::vector<BlockPool*> pools() const;

 private:
  SpaceTable(Options options, std::vector<uint8_t> cluster_secret)
      : options_(std::move(options)), cluster_secret_(std::move(cluster_secret)) {}

  absl::StatusOr<GroupMemory*> MemoryFor(uid_t uid, const std::string& shared_group) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status CheckSettled(const NamespaceSpec& spec, const std::string& owner) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<const Space*> Add(const NamespaceSpec& spec, GroupMemory& memory) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Checks and notes it; evicts nothing, because everybody waits for this lock. `pool`: the group's, null before its first namespace.
  absl::StatusOr<Quota> StoreQuota(const std::string& group, const Quota& quota, BlockPool** pool);
  Quota QuotaLocked(const GroupMemory& memory) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  uint64_t SsdQuota(const GroupMemory& memory) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status LoadRegistry();
  absl::Status SaveRegistry() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  const std::vector<uint8_t> cluster_secret_;
  std::vector<std::unique_ptr<GroupMemory>> memories_;
  mutable Mutex mutex_;
  std::map<NamespaceFingerprint, std::unique_ptr<Space>> spaces_ ABSL_GUARDED_BY(mutex_);
  std::map<uid_t, GroupMemory*> memory_of_user_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, FleetNamespace> settled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
