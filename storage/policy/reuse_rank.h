// The leaf with the least expected hits per block and use leaves first (block_history.h, reuse_model.h). Only blocks without held
// children are ranked, so this policy keeps law 7 by itself, and ranks conversations rather than blocks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "storage/policy/block_history.h"
#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

class ReuseRank final : public EvictionPolicy {
 public:
  // `history` (borrowed) has heard of a use before this policy does.
  explicit ReuseRank(const BlockHistory& history);

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

  // Moves blocks on to the ages that they have reached. Needed now and then; cheap when few have.
  void Age();
  // The model's ranks have changed.
  void Reorder();

 private:
  struct Block {
    BlockId parent = kNoBlock;
    uint32_t children = 0;  // held
    bool held = false;
    bool moved = false;     // its conversation goes on elsewhere
    uint16_t cls = 0;
    uint64_t conversation = 0;
    uint64_t last = 0;      // time of its last use
  };
  void Enlist(BlockId id);
  void Delist(BlockId id);

  const ReuseModel& model_;
  const BlockHistory& history_;
  std::vector<Block> blocks_;     // by id
  BlockLists leaves_;             // list class * bins + bin: leaves of that class and age, the oldest in front; the last: deferred
  const uint32_t deferred_;       // the last list
  // A bit for each list that may hold a block, by list and by the list's place among the ranks.
  std::vector<uint64_t> by_list_;
  std::vector<uint64_t> by_place_;
};

}  // namespace stem
