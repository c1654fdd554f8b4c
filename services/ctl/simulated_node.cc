#include "services/ctl/simulated_node.h"

#include <algorithm>
#include <utility>

namespace stem {

void SimulatedTier::Use(uint32_t block, uint32_t parent, BlockInfo info) {
  if (block >= ids_.size()) ids_.resize(std::max<size_t>(block + size_t{1}, ids_.size() * 3 / 2), kNoBlock);
  info.parent = parent < ids_.size() ? ids_[parent] : kNoBlock;
  BlockId& id = ids_[block];
  if (id != kNoBlock) return policy_->Touch(id, info);
  if (free_.empty()) {
    id = static_cast<BlockId>(blocks_.size());
    blocks_.push_back(block);
  } else {
    id = free_.back();
    free_.pop_back();
    blocks_[id] = block;
  }
  ++held_;
  policy_->Admit(id, info);
}

uint32_t SimulatedTier::Victim() { return blocks_[*policy_->Victim()]; }

void SimulatedTier::Remove(uint32_t block) {
  const BlockId id = std::exchange(ids_[block], kNoBlock);
  policy_->Remove(id);
  free_.push_back(id);
  --held_;
}

SimulatedNode::SimulatedNode(Tiers tiers)
    : closed_(tiers.closed),
      dram_(std::move(tiers.dram), tiers.dram_blocks),
      admission_(tiers.ssd == nullptr ? AdmissionKind::kAlways : tiers.admission, tiers.ssd_blocks) {
  if (tiers.ssd != nullptr) ssd_ = std::make_unique<SimulatedTier>(std::move(tiers.ssd), tiers.ssd_blocks);
}

size_t SimulatedNode::HeldFrom(const SimulatedRequest& request, size_t first) const {
  while (first < request.blocks.size() && holds(request.blocks[first])) ++first;
  return first;
}

void SimulatedNode::Use(const SimulatedRequest& request, size_t first, size_t end, bool copied) {
  for (size_t i = first; i < end; ++i) {
    const uint32_t block = request.blocks[i];
    const uint32_t parent = i == 0 ? kNoBlock : request.blocks[i - 1];
    if (block >= parents_.size()) parents_.resize(std::max<size_t>(block + size_t{1}, parents_.size() * 3 / 2), kNoBlock);
    parents_[block] = parent;
    children_.resize(parents_.size());
    if (parent != kNoBlock && !holds(block)) ++children_[parent];
    const BlockInfo info{.key = request.keys[i],
                         .depth = static_cast<uint32_t>(i),
                         .request = request.number,
                         .conversation = request.conversation,
                         .copied = copied};
    if (ssd_ != nullptr) {
      keys_.resize(parents_.size());
      keys_[block] = info.key;
      admission_.Use(info);
      if (ssd_->holds(block)) ssd_->Use(block, parent, info);
    }
    dram_.Use(block, parent, info);
  }
}

void SimulatedNode::Settle() {
  while (dram_.full()) LeaveDram(dram_.Victim());
  if (ssd_ != nullptr) SettleSsd();
}

void SimulatedNode::LeaveDram(uint32_t block) {
  dram_.Remove(block);
  if (ssd_ != nullptr && ssd_->holds(block)) return;
  if (ssd_ == nullptr || (!admission_.Admits(keys_[block]) && !(closed_ && children_[block] > 0))) {
    if (parents_[block] != kNoBlock) --children_[parents_[block]];
    return;
  }
  ssd_->Use(block, parents_[block], {.key = keys_[block]});
  ++ssd_writes_;
}

void SimulatedNode::SettleSsd() {
  for (size_t tries = 2 * ssd_->held(); ssd_->full() && tries > 0; --tries) {
    const uint32_t victim = ssd_->Victim();
    // Its child may be in DRAM alone: then it must wait.
    if (closed_ && !dram_.holds(victim) && children_[victim] > 0) {
      ssd_->Defer(victim);
      continue;
    }
    ssd_->Remove(victim);
    if (!dram_.holds(victim) && parents_[victim] != kNoBlock) --children_[parents_[victim]];
  }
}

uint64_t SimulatedNode::Orphans() const {
  uint64_t orphans = 0;
  for (uint32_t block = 0; block < parents_.size(); ++block) {
    if (parents_[block] != kNoBlock && holds(block) && !holds(parents_[block])) ++orphans;
  }
  return orphans;
}

}  // namespace stem
