// Belady's clairvoyant choice (IBM Systems Journal 5(2), 1966): what is used again last, or never, leaves first. For the simulator,
// which knows the future: the ceiling of all others, but for what the strict prefix does to it.
#pragma once

#include <functional>
#include <set>
#include <utility>
#include <vector>

#include "storage/policy/eviction.h"

namespace stem {

class BeladyPolicy final : public EvictionPolicy {
 public:
  // `next_use`: place in the trace of the key's next use after the present one; larger than all others when there is none.
  explicit BeladyPolicy(std::function<uint64_t(uint64_t key)> next_use) : next_use_(std::move(next_use)) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  struct Entry {
    bool held = false;
    uint64_t next = 0;
  };
  void Place(BlockId id, uint64_t next);

  const std::function<uint64_t(uint64_t)> next_use_;
  std::vector<Entry> entries_;                     // by id
  std::set<std::pair<uint64_t, BlockId>> by_next_;
};

}  // namespace stem
