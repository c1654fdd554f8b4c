// S3-FIFO (Yang et al., SOSP 2023): a small queue that most blocks leave unused, a main queue for those that were used in
// it or came back soon after, ghosts that tell the latter.
#pragma once

#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"
#include "storage/policy/ghost_queue.h"

namespace stem {

class S3FifoPolicy final : public EvictionPolicy {
 public:
  explicit S3FifoPolicy(size_t capacity_blocks)
      : small_max_(capacity_blocks / 10 > 0 ? capacity_blocks / 10 : 1), ghosts_max_(capacity_blocks - capacity_blocks / 10) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  enum List : uint32_t { kSmall, kMain };  // the next to leave in front
  struct Entry {
    uint64_t key = 0;
    uint8_t uses = 0;  // since it entered its queue, 3 at most
  };

  const size_t small_max_;
  const size_t ghosts_max_;
  BlockLists queues_{2};
  std::vector<Entry> entries_;  // by id
  GhostQueue ghosts_;           // of what left from the small queue
};

}  // namespace stem
