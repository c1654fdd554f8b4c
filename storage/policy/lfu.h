// Least frequently used first, among equals the least recently used. Uses are counted over a block's whole life, also while it
// is not here: "perfect" LFU, but for what the ghosts forget.
#pragma once

#include <algorithm>
#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"
#include "storage/policy/ghost_counts.h"

namespace stem {

class LfuPolicy final : public EvictionPolicy {
 public:
  // Remembers the uses of as many blocks that left as the capacity eight times, and of a million at least.
  explicit LfuPolicy(size_t capacity_blocks) : ghosts_(std::max<size_t>(8 * capacity_blocks, 1 << 20)) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  void Use(BlockId id);
  static constexpr uint32_t kUsesMax = 1 << 16;  // more are not told apart

  BlockLists by_uses_{2};       // list u: used u times, the least recent in front; list 0: deferred
  struct Entry {
    uint64_t key = 0;
    uint32_t uses = 0;
  };
  std::vector<Entry> entries_;  // by id
  GhostCounts ghosts_;          // uses of blocks that left
  uint32_t least_ = 1;          // no shorter list but 0 holds a block
};

}  // namespace stem
