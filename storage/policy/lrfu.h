// LRFU: recency-weighted frequency (Lee et al., IEEE ToC 50(12), 2001). A block's worth is the sum over its uses of
// 2^(-age / half life); the least worth leaves first. Time is counted in uses of any block.
#pragma once

#include <set>
#include <utility>
#include <vector>

#include "storage/policy/eviction.h"

namespace stem {

class LrfuPolicy final : public EvictionPolicy {
 public:
  // `half_life_uses`: after so many uses of any block a use counts half. Small: LRU; large: LFU.
  explicit LrfuPolicy(double half_life_uses) : decay_(1 / half_life_uses) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  struct Entry {
    bool held = false;
    double rank = 0;   // log2 of the worth that it would have had at time 0: keeps its order as time passes
    double order = 0;  // where it stands: rank, or infinite when deferred
  };
  void Place(BlockId id, double order);

  const double decay_;
  uint64_t uses_ = 0;
  std::vector<Entry> entries_;                  // by id
  std::set<std::pair<double, BlockId>> ranked_;
};

}  // namespace stem
