// What operators do to a node: drain it, keep stems from eviction, evict by name, limit a trust group. Calls may take as long as the blocks
// that they name are many. Threads: any.
#pragma once

#include <functional>
#include <optional>

#include "proto/validate_levers.h"
#include "services/node/operators/kept_stems.h"
#include "services/node/peers/lease_table.h"
#include "services/node/sessions/drain.h"
#include "services/node/sessions/session.h"
#include "services/node/spaces/space_table.h"
#include "services/node/tiers/promoter.h"
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
  // Errors: NotFound (the namespace or the key is not known here), ResourceExhausted (half of the pool, no slot).
  absl::StatusOr<v1::KeepReply> Keep(const KeepCall& call);
  // Errors: NotFound, Unavailable (the disk).
  absl::StatusOr<v1::EvictReply> Evict(const EvictCall& call);
  // Errors: NotFound (no such group), InvalidArgument (sizes), FailedPrecondition (less than twice what is kept).
  absl::StatusOr<v1::SetQuotaReply> SetQuota(const SetQuotaCall& call);

 private:
  // Whose key `last` is: `space`, or the one that holds it.
  absl::StatusOr<const Space*> SpaceOf(const std::optional<NamespaceFingerprint>& space, const std::optional<BlockKey>& last) const;
  // What is held, in whatever tier, of the leading blocks of which every full-attention part is.
  struct HeldRun {
    std::vector<BlockName> names;
    std::vector<size_t> ends;  // of each block, how many names it and those before it have
  };
  static HeldRun RunOf(const Space& space, const std::vector<BlockKey>& keys);
  // Brings to DRAM and keeps; returns how many blocks. Errors: as Keep.
  absl::StatusOr<uint32_t> KeepRun(const Space& space, const KeepCall& call);
  absl::Status EvictStem(const Space& space, const BlockKey& last, v1::EvictReply* reply);
  // Counts what was evicted, and has it forgotten by whoever kept it and by the disk.
  absl::Status Take(const BlockPool::Withdrawn& evicted, v1::EvictReply* reply);

  const Parts parts_;
};

}  // namespace stem
