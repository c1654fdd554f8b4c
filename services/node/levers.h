// What operators do to a node: drain it, keep stems from eviction, evict by name, limit a trust group. Calls may take as long as the blocks
// that they name are many. Threads: any.
#pragma once

#include <functional>
#include <optional>

#include "proto/validate_levers.h"
#include "services/node/drain.h"
#include "services/node/kept_stems.h"
#include "services/node/lease_table.h"
#include "services/node/promoter.h"
#include "services/node/session.h"
#include "services/node/space_table.h"
#include "services/runtime/log.h"

namespace stem {

class Levers {
 public:
  // All borrowed.
  struct Parts {
    SpaceTable& spaces;
    Promoter& promoter;
    KeptStems& kept;
    Drain& drain;
    const SessionTable& sessions;
    const LeaseTable& leases;
    Logger& log;
    std::function<void(bool)> on_drain;  // tells health checks
  };
  explicit Levers(const Parts& parts) : parts_(parts) {}

  v1::DrainReply SetDrain(bool on);
  // Errors: NotFound (the namespace or the key is not known here), ResourceExhausted (half of the pool).
  absl::StatusOr<v1::KeepReply> Keep(const KeepCall& call);
  // Errors: NotFound, Unavailable (the disk).
  absl::StatusOr<v1::EvictReply> Evict(const EvictCall& call);
  // Errors: NotFound (no such group), InvalidArgument (sizes).
  absl::StatusOr<v1::SetQuotaReply> SetQuota(const SetQuotaCall& call);

 private:
  // Whose key `last` is: `space`, or the one that holds it.
  absl::StatusOr<const Space*> SpaceOf(const std::optional<NamespaceFingerprint>& space, const std::optional<BlockKey>& last) const;
  // Reads what of these is on SSD only.
  void Promote(BlockPool& pool, const std::vector<BlockName>& names) const;
  // The names of the leading blocks of which every full-attention part is held, and of what is held of their other parts; all in DRAM now.
  std::vector<BlockName> BringToDram(const Space& space, const std::vector<BlockKey>& keys, uint32_t* blocks) const;

  const Parts parts_;
};

}  // namespace stem
