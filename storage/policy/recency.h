// The two oldest orders of leaving: by entry (fifo) and by last use (lru).
#pragma once

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

// First in, first out.
class FifoPolicy : public EvictionPolicy {
 public:
  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  BlockLists queue_{1};  // the next to leave in front
};

// Least recently used first.
class LruPolicy final : public FifoPolicy {
 public:
  void Touch(BlockId id, const BlockInfo& info) override;
};

}  // namespace stem
