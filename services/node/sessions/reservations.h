// Which blocks are being published by whom: so that two clients do not compute and copy the same one. A reservation ends
// with Commit, Abandon, the session, or its time.
#pragma once

#include <cstdint>
#include <span>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"

namespace stem {

// Threads: any.
class Reservations {
 public:
  // Reserves `name` for `session` until `expiry`; false when another session has it.
  bool TryReserve(const BlockName& name, uint64_t session, absl::Time now, absl::Time expiry);
  // Frees the names that `session` still has.
  void Free(std::span<const BlockName> names, uint64_t session);
  bool Reserved(const BlockName& name, absl::Time now) const;
  size_t size() const;
  // Forgets what is past its time; returns how many.
  size_t Expire(absl::Time now);

 private:
  struct Claim {
    uint64_t session = 0;
    absl::Time expiry;
  };
  mutable Mutex mutex_;
  absl::flat_hash_map<BlockName, Claim> claims_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
