// W-TinyLFU (Einziger, Friedman, Manes, ACM ToS 13(4), 2017): a small LRU window in front of a segmented LRU; what leaves the
// window must be more frequent than what it would push out, by a sketch that counts all uses and forgets by halving.
#pragma once

#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

// Count-min sketch of 4 rows, counts to 15, halved after ten times the capacity.
class FrequencySketch {
 public:
  explicit FrequencySketch(size_t capacity_blocks);
  void Add(uint64_t key);
  uint32_t Count(uint64_t key) const;

 private:
  static constexpr int kRows = 4;
  size_t Place(uint64_t key, int row) const;

  size_t mask_;
  size_t adds_max_;
  size_t adds_ = 0;
  std::vector<uint8_t> counts_;  // row after row
};

class WTinyLfuPolicy final : public EvictionPolicy {
 public:
  explicit WTinyLfuPolicy(size_t capacity_blocks);

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  enum List : uint32_t { kWindow, kProbation, kProtected };  // the least recent in front
  size_t main_size() const { return lists_.size(kProbation) + lists_.size(kProtected); }
  void Protect(BlockId id);

  const size_t window_max_;
  const size_t main_max_;
  const size_t protected_max_;
  FrequencySketch sketch_;
  BlockLists lists_{3};
  std::vector<uint64_t> keys_;  // by id
};

}  // namespace stem
