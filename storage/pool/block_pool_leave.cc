// How blocks leave the pool: for space, by their last pin, or withdrawn with their subtree.
#include <optional>
#include <vector>

#include "proto/check.h"
#include "storage/pool/block_pool.h"

namespace stem {

bool BlockPool::MayLeaveDram(const Block& block) {
  if (block.pins > 0 || block.awaited > 0 || block.spilling) return false;
  if (block.on_ssd) return true;
  return (options_.ssd_bytes_max == 0 || spill_failing_ || !WorthSpilling(block)) && block.first_child == kNoBlock;
}

bool BlockPool::WorthSpilling(const Block& block) {
  // Law 7 comes first: what has a child here stays here.
  return block.first_child != kNoBlock || admission_.Admits(PolicyKey(block.meta.name));
}

bool BlockPool::EvictOne() {
  for (uint64_t tries = blocks_dram_; tries > 0; --tries) {
    const std::optional<BlockId> victim = dram_policy_->Victim();
    if (!victim.has_value()) return false;
    const Block& block = blocks_[*victim];
    if (MayLeaveDram(block)) {
      LeaveDram(*victim);
      return true;
    }
    // What only waits for the spiller keeps its rank: it is next on the way out.
    const bool in_use = block.pins > 0 || block.awaited > 0;
    if (!in_use && !block.spilling && options_.ssd_bytes_max > 0 && !spill_failing_) return false;
    dram_policy_->Defer(*victim);
  }
  return false;
}

void BlockPool::LeaveDram(BlockId id) {
  Block& block = blocks_[id];
  if (!block.on_ssd) {
    ++evicted_;
    if (options_.ssd_bytes_max > 0) ++spill_rejected_;
    Withdraw(id, options_.ssd_bytes_max > 0 ? GoneReason::kSpillRejected : GoneReason::kEvicted);
    return;
  }
  slot_map_.Leave(block.meta.name, block.slot);
  dram_policy_->Remove(id);
  block.ranked = false;
  --blocks_dram_;
  TellLeft(block, Residence::kDram, GoneReason::kNone);
  Announce(block, Residence::kSsd, GoneReason::kNone);
  FreeSlot(block);
}

void BlockPool::Withdraw(BlockId id, GoneReason reason) {
  Block& block = blocks_[id];
  STEM_CHECK(block.used && !block.withdrawn);
  while (block.first_child != kNoBlock) Withdraw(block.first_child, reason);
  const bool ready = block.in_slot && !block.filling;
  const bool named = ready || block.on_ssd;
  if (ready) {
    slot_map_.Leave(block.meta.name, block.slot);
    dram_policy_->Remove(id);
    block.ranked = false;
    --blocks_dram_;
  }
  if (block.on_ssd) {
    ssd_policy_->Remove(id);
    StrikeSsd(block);
  }
  block.withdrawn = true;
  table_.erase(block.meta.name);
  if (block.parent != kNoBlock) {
    BlockId& from_left = block.previous_sibling != kNoBlock ? blocks_[block.previous_sibling].next_sibling
                                                            : blocks_[block.parent].first_child;
    from_left = block.next_sibling;
    if (block.next_sibling != kNoBlock) blocks_[block.next_sibling].previous_sibling = block.previous_sibling;
    block.parent = kNoBlock;
  } else if (block.meta.parent.has_value()) {
    --orphans_;
  }
  if (named) {
    TellLeft(block, ready ? Residence::kDram : Residence::kSsd, reason);
    Announce(block, Residence::kGone, reason);
  }
  if (ready && block.pins == 0) FreeSlot(block);
  FreeEntryIfUnused(id);
}

void BlockPool::FreeSlot(Block& block) {
  STEM_CHECK(block.in_slot);
  block.in_slot = false;
  --slots_used_;
  free_slots_.push_back(block.slot);
  slot_freed_.NotifyAll();
}

void BlockPool::FreeEntryIfUnused(BlockId id) {
  Block& block = blocks_[id];
  if (!block.used || !block.withdrawn || block.pins > 0 || block.awaited > 0 || block.filling) return;
  block = Block();
  free_ids_.push_back(id);
}

void BlockPool::Unpin(BlockId id) {
  MutexLock lock(mutex_);
  UnpinLocked(id);
}

void BlockPool::UnpinLocked(BlockId id) {
  Block& block = blocks_[id];
  STEM_CHECK(block.pins > 0);
  --pins_;
  if (--block.pins > 0) return;
  --slots_pinned_;
  if (block.withdrawn) {
    FreeSlot(block);
    FreeEntryIfUnused(id);
    return;
  }
  // Its request ended without telling of it, or it was copied later on: it goes with its parent's.
  if (!block.ranked && !block.spilling) UseLocked(id, RequestOf(block), {});
  if (slot_waiters_ > 0) slot_freed_.NotifyAll();  // it may be evicted now
}

void BlockPool::WithdrawNamed(BlockId id, GoneReason reason, Withdrawn* withdrawn) {
  const Block& block = blocks_[id];
  if (block.on_ssd) withdrawn->records.push_back({block.meta.name, block.spill_generation});
  if (block.on_ssd || (block.in_slot && !block.filling)) {
    withdrawn->gone.push_back(block.meta.name);
    if (block.pins > 0) ++withdrawn->in_use;
  }
  Withdraw(id, reason);
}

BlockPool::Withdrawn BlockPool::Quarantine(const BlockName& name, uint64_t generation) {
  MutexLock lock(mutex_);
  Withdrawn withdrawn;
  const auto it = table_.find(name);
  if (it == table_.end()) return withdrawn;
  const Block& block = blocks_[it->second];
  const bool in_dram = block.in_slot && !block.filling && block.meta.generation == generation;
  if (!in_dram && !(block.on_ssd && block.spill_generation == generation)) return withdrawn;
  const std::vector<BlockId> subtree = Subtree(it->second);
  for (size_t i = subtree.size(); i-- > 0;) WithdrawNamed(subtree[i], GoneReason::kIntegrity, &withdrawn);
  ++quarantined_;
  quarantined_below_ += withdrawn.gone.size() - 1;
  return withdrawn;
}

std::vector<BlockId> BlockPool::Subtree(BlockId id) const {
  std::vector<BlockId> subtree = {id};
  for (size_t i = 0; i < subtree.size(); ++i) {
    for (BlockId child = blocks_[subtree[i]].first_child; child != kNoBlock; child = blocks_[child].next_sibling) {
      subtree.push_back(child);
    }
  }
  return subtree;
}

}  // namespace stem
