// The pool's side of the SSD tier: what is spilled and makes room there, and what a restart finds.
#include "storage/pool/block_pool.h"

#include <algorithm>
#include <utility>

#include "proto/check.h"

namespace stem {
namespace {
constexpr size_t kGonePerLock = 65536;
}  // namespace

// ---- Spilling -----------------------------------------------------------------------------------------------------------

size_t BlockPool::slots_left() const {
  const size_t held_back = slots_ - slots_max_;
  return free_slots_.size() > held_back ? free_slots_.size() - held_back : 0;
}

size_t BlockPool::spill_ahead() const {
  // As large a share of the quota as of the arena.
  const uint64_t share = uint64_t{options_.spill_ahead_slots} * slots_max_ / std::max<uint32_t>(slots_, 1);
  return std::max<size_t>(share, std::min<uint32_t>(options_.spill_ahead_slots, 1));
}

bool BlockPool::SpillWanted() const {
  return options_.ssd_bytes_max > 0 && (slot_waiters_ > 0 || slots_left() < spill_ahead());
}

std::vector<BlockPin> BlockPool::TakeSpillBatch(uint64_t bytes_max) {
  std::vector<BlockPin> batch;
  MutexLock lock(mutex_);
  uint64_t bytes = 0;
  bool left = false;
  for (uint64_t tries = blocks_dram_; tries > 0 && bytes < bytes_max; --tries) {
    if (!SpillWanted() || slots_left() + batch.size() >= 2 * spill_ahead() + slot_waiters_) break;
    const std::optional<BlockId> victim = dram_policy_->Victim();
    if (!victim.has_value()) break;
    Block& block = blocks_[*victim];
    const bool in_use = block.pins > 0 || block.awaited > 0;
    if (!in_use && (block.on_ssd || !WorthSpilling(block))) {
      LeaveDram(*victim);
      left = true;
      continue;
    }
    if (in_use) {
      dram_policy_->Defer(*victim);
      continue;
    }
    // Out of the ranks, so that its parent is the next leaf and the chain goes together; a use meanwhile brings it back.
    dram_policy_->Remove(*victim);
    block.ranked = false;
    block.spilling = true;
    bytes += block.meta.length;
    batch.push_back(PinLocked(*victim));
  }
  spill_in_vain_ = batch.empty() && !left && SpillWanted();
  return batch;
}

std::vector<SpillRecordId> BlockPool::FinishSpill(std::vector<BlockPin> batch, bool stored, std::span<const BlockMeta> records) {
  STEM_CHECK(records.empty() || records.size() == batch.size());
  std::vector<SpillRecordId> withdrawn_meanwhile;
  MutexLock lock(mutex_);
  spill_failing_ = !stored;
  for (size_t i = 0; i < batch.size(); ++i) {
    BlockPin& pin = batch[i];
    const BlockId id = std::exchange(pin.id_, kNoBlock);
    pin.pool_ = nullptr;  // unpinned here, under the lock that is held
    Block& block = blocks_[id];
    const bool withdrawn = block.withdrawn;
    if (withdrawn) withdrawn_meanwhile.push_back({block.meta.name, block.meta.generation});
    UnpinLocked(id);
    if (withdrawn) continue;
    block.spilling = false;
    if (!stored) {
      if (!block.ranked && block.pins == 0) UseLocked(id, ++requests_, {});
      continue;
    }
    if (!block.on_ssd) {
      EnterSsd(block, records.empty() ? block.meta : records[i]);
      block.ssd_since = Hundredths();
      ssd_policy_->Admit(id, InfoOf(block, {}));
    }
    if (block.pins == 0 && !block.ranked) LeaveDram(id);
  }
  slot_freed_.NotifyAll();
  return withdrawn_meanwhile;
}

std::vector<SpillRecordId> BlockPool::MakeSsdRoom(uint64_t bytes) {
  std::vector<SpillRecordId> gone;
  MutexLock lock(mutex_);
  for (uint64_t tries = 2 * blocks_ssd_; tries > 0 && gone.size() < kGonePerLock && ssd_bytes_ + bytes > ssd_bytes_max_; --tries) {
    const std::optional<BlockId> victim = ssd_policy_->Victim();
    if (!victim.has_value()) break;
    const Block& block = blocks_[*victim];
    if (block.filling || (!block.in_slot && block.first_child != kNoBlock)) {
      ssd_policy_->Defer(*victim);
      continue;
    }
    gone.push_back({block.meta.name, block.spill_generation});
    LeaveSsd(*victim);
  }
  return gone;
}

void BlockPool::LeaveSsd(BlockId id) {
  Block& block = blocks_[id];
  if (!block.in_slot) {
    ++evicted_;
    Withdraw(id, GoneReason::kEvicted);
    return;
  }
  ssd_policy_->Remove(id);
  StrikeSsd(block);  // its best place is DRAM still: nothing to announce
}

void BlockPool::EnterSsd(Block& block, const BlockMeta& record) {
  block.on_ssd = true;
  block.spill_generation = record.generation;
  block.spill_length = static_cast<uint32_t>(record.length);  // a payload has at most 1 GiB
  block.spill_digest = record.digest;
  block.spill_encoding = record.encoding;
  ++blocks_ssd_;
  ssd_bytes_ += SpillRecordBytes(record.length);
}

void BlockPool::StrikeSsd(Block& block) {
  block.on_ssd = false;
  --blocks_ssd_;
  ssd_bytes_ -= SpillRecordBytes(block.spill_length);
}

void BlockPool::WaitForSpillDemand(absl::Duration timeout) {
  MutexLock lock(mutex_);
  if (!SpillWanted() || spill_in_vain_) spill_demand_.WaitFor(mutex_, timeout);
}

// ---- Restart ------------------------------------------------------------------------------------------------------------

void BlockPool::Restore(const BlockMeta& meta) {
  MutexLock lock(mutex_);
  if (table_.contains(meta.name)) return;
  const BlockId id = NewBlock(meta.name, meta.parent);
  Block& block = blocks_[id];
  block.meta.publisher = meta.publisher;  // the rest is of a slot
  generation_ = std::max(generation_, meta.generation);  // no fill has it again
  EnterSsd(block, meta);
}

std::vector<SpillRecordId> BlockPool::FinishRestore() {
  MutexLock lock(mutex_);
  std::vector<SpillRecordId> gone;
  std::vector<BlockId> orphans;
  for (BlockId id = 0; id < blocks_.size(); ++id) {
    const Block& block = blocks_[id];
    if (!block.used || !block.meta.parent.has_value() || block.parent != kNoBlock) continue;
    const auto it = table_.find(BlockName{block.meta.name.space, *block.meta.parent});
    if (it != table_.end()) {
      Link(id, it->second);
    } else {
      orphans.push_back(id);
    }
  }
  for (size_t i = 0; i < orphans.size(); ++i) {
    gone.push_back({blocks_[orphans[i]].meta.name, blocks_[orphans[i]].spill_generation});
    for (BlockId child = blocks_[orphans[i]].first_child; child != kNoBlock; child = blocks_[child].next_sibling) {
      orphans.push_back(child);
    }
  }
  for (size_t i = orphans.size(); i-- > 0;) Withdraw(orphans[i], GoneReason::kEvicted);
  RankRestored();
  return gone;
}

void BlockPool::RankRestored() {
  std::vector<BlockId> chain_order;
  for (BlockId id = 0; id < blocks_.size(); ++id) {
    if (blocks_[id].used && !blocks_[id].withdrawn && blocks_[id].parent == kNoBlock) chain_order.push_back(id);
  }
  for (size_t i = 0; i < chain_order.size(); ++i) {
    Block& block = blocks_[chain_order[i]];
    block.depth = block.parent == kNoBlock ? 0 : blocks_[block.parent].depth + 1;
    block.request = block.parent == kNoBlock ? ++requests_ : blocks_[block.parent].request;
    if (block.on_ssd) ssd_policy_->Admit(chain_order[i], InfoOf(block, {}));
    for (BlockId child = block.first_child; child != kNoBlock; child = blocks_[child].next_sibling) {
      chain_order.push_back(child);
    }
  }
}

}  // namespace stem
