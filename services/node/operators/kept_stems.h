// Stems that operators keep from eviction for a time. Ends by itself; bounded by the pools (half of each) and in number.
#pragma once

#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "storage/pool/block_pool.h"

namespace stem {

inline constexpr size_t kKeptStemsMax = 1024;  // on one node

// Threads: any.
class KeptStems {
 public:
  KeptStems() = default;
  ~KeptStems();
  KeptStems(const KeptStems&) = delete;
  KeptStems& operator=(const KeptStems&) = delete;

  // Keeps the leading run of `names` that is Ready in `pool` (borrowed for as long) until `until`, as the stem whose last block is `last`; a stem
  // kept before under that name is let go. `names` are parts of `blocks` blocks. Errors: ResourceExhausted (half of the pool, kKeptStemsMax).
  absl::Status Keep(BlockPool& pool, const BlockName& last, std::span<const BlockName> names, uint32_t blocks, absl::Time until);
  // Returns the blocks that were kept; 0 = it was not.
  uint32_t LetGo(const BlockName& last);
  // These were withdrawn: who reads them may, and nobody else holds their memory.
  void Forget(const std::vector<BlockName>& gone);
  // Ends what is past its time.
  void Expire(absl::Time now);

 private:
  struct Stem {
    BlockPool* pool = nullptr;
    std::vector<BlockPin> pins;
    uint32_t blocks = 0;
    absl::Time until;
  };

  Mutex mutex_;
  absl::flat_hash_map<BlockName, Stem> stems_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
