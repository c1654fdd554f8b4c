// SIEVE (Zhang et al., NSDI 2024): one queue by entry; a hand sweeps it from the oldest to the newest, spares what was used
// since it last came by, and gives up what was not.
#pragma once

#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

class SievePolicy final : public EvictionPolicy {
 public:
  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  BlockLists queue_{1};        // oldest in front
  std::vector<bool> used_;     // by id, since the hand last came by
  BlockId hand_ = kNoBlock;    // kNoBlock: at the oldest
};

}  // namespace stem
