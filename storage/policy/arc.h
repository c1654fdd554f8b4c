// ARC (Megiddo and Modha, FAST 2003): blocks used once (t1) and more often (t2), each with ghosts (b1, b2); a hit among the ghosts
// of one moves the target size of t1 its way.
#pragma once

#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"
#include "storage/policy/ghost_queue.h"

namespace stem {

class ArcPolicy final : public EvictionPolicy {
 public:
  explicit ArcPolicy(size_t capacity_blocks) : capacity_(static_cast<double>(capacity_blocks)) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void Defer(BlockId id) override;

 private:
  enum List : uint32_t { kOnce, kOften };  // the least recent in front
  void TrimGhosts();

  const double capacity_;
  double once_target_ = 0;     // the paper's p
  bool came_from_often_ = false;  // the last admitted was a ghost of t2
  BlockLists lists_{2};
  std::vector<uint64_t> keys_;  // by id
  GhostQueue once_ghosts_;
  GhostQueue often_ghosts_;
};

}  // namespace stem
