// Remote rights to read this node's slots: each lease pins its slots until it is returned or its time, with a margin, is up.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "storage/pool/block_pool.h"

namespace stem {

// What the reader may take longer than the time it was told, as it counts from sending and the owner from granting.
inline constexpr absl::Duration kLeaseMargin = absl::Milliseconds(500);

// Threads: any.
class LeaseTable {
 public:
  explicit LeaseTable(size_t leases_max) : leases_max_(leases_max) {}

  // Keeps `pins` for `duration` and a margin; returns the lease's id, or 0 when there are too many leases.
  uint64_t Grant(std::vector<BlockPin> pins, absl::Time now, absl::Duration duration);
  // Lets a lease last for `duration` and a margin from `now`. False when it is not known: it has ended.
  bool Renew(uint64_t id, absl::Time now, absl::Duration duration);
  // Unknown ids are fine: the lease may have expired.
  void Return(uint64_t id);
  // Names of the leased blocks whose part keys are among `keys`: what a reader may complain about.
  std::vector<BlockName> NamesOf(uint64_t id, const std::vector<BlockKey>& keys) const;
  // Ends the leases whose time is up; returns how many.
  size_t Expire(absl::Time now);
  size_t size() const;
  // When the oldest lease that is out was granted; InfiniteFuture without one.
  absl::Time Oldest() const;

 private:
  struct Lease {
    std::vector<BlockPin> pins;
    absl::Time granted;
    absl::Time expiry;
  };
  const size_t leases_max_;
  mutable Mutex mutex_;
  absl::flat_hash_map<uint64_t, Lease> leases_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
