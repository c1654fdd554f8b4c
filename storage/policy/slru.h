// Segmented LRU (Karedla et al., IEEE Computer 27(3), 1994): what was used once waits on probation, what was used again is
// protected; the least recent on probation leaves first.
#pragma once

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

class SlruPolicy final : public EvictionPolicy {
 public:
  explicit SlruPolicy(size_t capacity_blocks) : protected_max_(capacity_blocks * 4 / 5) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  enum List : uint32_t { kProbation, kProtected };  // the least recent in front
  const size_t protected_max_;
  BlockLists lists_{2};
};

}  // namespace stem
