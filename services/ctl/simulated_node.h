// One node of a simulation: which blocks it holds in DRAM and on SSD, moved about by the node's own policies and admission.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "storage/policy/admission.h"
#include "storage/policy/eviction.h"

namespace stem {

// The chain of a request: blocks by their number among the distinct blocks of the trace.
struct SimulatedRequest {
  std::span<const uint32_t> blocks;
  std::span<const uint64_t> keys;  // one for each, as policies know them
  uint64_t number = 0;             // from 1
  Conversation conversation;       // as the engine tells
};

// What one policy of a node holds. Ids are dense and reused, so memory is that of the capacity, and 4 bytes a distinct block.
class SimulatedTier {
 public:
  SimulatedTier(std::unique_ptr<EvictionPolicy> policy, size_t capacity_blocks)
      : policy_(std::move(policy)), capacity_(capacity_blocks) {}

  bool holds(uint32_t block) const { return block < ids_.size() && ids_[block] != kNoBlock; }
  bool full() const { return held_ > capacity_; }
  size_t held() const { return held_; }
  // Touches or admits a block whose parent is `parent` (kNoBlock: it has none).
  void Use(uint32_t block, uint32_t parent, BlockInfo info);
  // The next to leave, as a block. There is one.
  uint32_t Victim();
  void Defer(uint32_t block) { policy_->Defer(ids_[block]); }
  void Remove(uint32_t block);

 private:
  const std::unique_ptr<EvictionPolicy> policy_;
  const size_t capacity_;
  size_t held_ = 0;
  std::vector<BlockId> ids_;      // by block
  std::vector<uint32_t> blocks_;  // by id
  std::vector<BlockId> free_;
};

class SimulatedNode {
 public:
  struct Tiers {
    std::unique_ptr<EvictionPolicy> dram;
    size_t dram_blocks = 0;
    std::unique_ptr<EvictionPolicy> ssd;  // null without an SSD tier
    size_t ssd_blocks = 0;
    AdmissionKind admission = AdmissionKind::kAlways;
    bool closed = false;  // law 7: a block goes to SSD, whatever admission says, rather than leave its child there alone
  };
  explicit SimulatedNode(Tiers tiers);

  bool holds(uint32_t block) const { return dram_.holds(block) || (ssd_ != nullptr && ssd_->holds(block)); }
  bool in_dram(uint32_t block) const { return dram_.holds(block); }
  // Where the leading run of blocks from `first` on ends.
  size_t HeldFrom(const SimulatedRequest& request, size_t first) const;
  // Touches or admits blocks [first, end) in chain order. `copied`: for another node, which holds them from now on.
  void Use(const SimulatedRequest& request, size_t first, size_t end, bool copied);
  // Evicts down to capacity.
  void Settle();

  uint64_t ssd_writes() const { return ssd_writes_; }
  // Held blocks whose parent is not.
  uint64_t Orphans() const;

 private:
  void LeaveDram(uint32_t block);
  void SettleSsd();

  const bool closed_;
  SimulatedTier dram_;
  std::unique_ptr<SimulatedTier> ssd_;
  Admission admission_;
  uint64_t ssd_writes_ = 0;
  std::vector<uint32_t> parents_;       // by block, kNoBlock = starts its chain
  std::vector<uint32_t> children_;      // by block: held in any tier
  std::vector<uint64_t> keys_;          // by block; only with an SSD tier
};

}  // namespace stem
