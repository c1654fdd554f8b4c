// How blocks come into the pool: who may fill a slot, who waits for it, and what becomes of it.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/check.h"
#include "storage/pool/block_pool.h"

namespace stem {

// ---- Handles -----------------------------------------------------------------------------------------------------------

BlockAwait::BlockAwait(BlockAwait&& other) noexcept : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_) {}

BlockAwait& BlockAwait::operator=(BlockAwait&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(id_, other.id_);
  return *this;
}

BlockAwait::~BlockAwait() {
  if (pool_ != nullptr) pool_->EndAwait(id_);
}

Filling::Filling(Filling&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)),
      id_(other.id_),
      slot_(other.slot_),
      promoted_(std::move(other.promoted_)) {}

Filling& Filling::operator=(Filling&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(id_, other.id_);
  std::swap(slot_, other.slot_);
  std::swap(promoted_, other.promoted_);
  return *this;
}

Filling::~Filling() {
  if (pool_ != nullptr) pool_->AbandonFill(id_);
}

SlotView<std::byte> Filling::view() const { return {pool_->slot_bytes(slot_), pool_->geometry_}; }

absl::StatusOr<BlockPin> Filling::Commit(uint64_t length, uint64_t digest, uint64_t publisher) && {
  return std::exchange(pool_, nullptr)->CommitFill(id_, length, digest, publisher);
}

bool Filling::GiveUp() { return pool_->GiveUpFill(id_); }

// ---- Awaiting ----------------------------------------------------------------------------------------------------------

BlockAwait BlockPool::AwaitLocked(BlockId id) {
  ++blocks_[id].awaited;
  return BlockAwait(this, id);
}

BlockPool::Presence BlockPool::PinOrAwait(const BlockName& name, BlockPin* pin, BlockAwait* awaited) {
  MutexLock lock(mutex_);
  const Presence presence = FindLocked(name);
  if (presence == Presence::kDram) *pin = PinLocked(table_.at(name));
  if (presence == Presence::kFilling) *awaited = AwaitLocked(table_.at(name));
  return presence;
}

BlockPin BlockPool::PinWhenFilled(const BlockName& name, absl::Time deadline) {
  BlockAwait awaited;  // ends after the lock
  MutexLock lock(mutex_);
  while (true) {
    const auto it = table_.find(name);
    if (it == table_.end()) return {};
    const Block& block = blocks_[it->second];
    if (!block.filling) return block.in_slot ? PinLocked(it->second) : BlockPin();
    if (!awaited.valid()) awaited = AwaitLocked(it->second);
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return {};
    filled_.WaitFor(mutex_, left);
  }
}

// ---- Filling -----------------------------------------------------------------------------------------------------------

absl::Status BlockPool::MayFill(const BlockName& name, const std::optional<BlockKey>& parent) const {
  if (const auto it = table_.find(name); it != table_.end()) {
    const Block& block = blocks_[it->second];
    if (block.filling) return absl::AlreadyExistsError("the block is being filled");
    if (block.in_slot) return absl::AlreadyExistsError("the block is held");
  }
  if (parent.has_value() && !table_.contains(BlockName{name.space, *parent})) {
    return absl::FailedPreconditionError(absl::StrCat("the parent ", parent->ToHex(), " is not held here"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Filling> BlockPool::BeginFill(const BlockName& name, const std::optional<BlockKey>& parent,
                                             absl::Time deadline) {
  MutexLock lock(mutex_);
  STEM_TRY(MayFill(name, parent));
  STEM_ASSIGN(const uint32_t slot, TakeSlot(deadline));
  // TakeSlot may have waited without the lock, or evicted the very parent.
  if (absl::Status status = MayFill(name, parent); !status.ok()) {
    free_slots_.push_back(slot);
    slot_freed_.NotifyAll();
    return status;
  }
  const auto it = table_.find(name);
  const BlockId id = it != table_.end() ? it->second : NewBlock(name, parent);
  Block& block = blocks_[id];
  std::optional<BlockMeta> promoted;
  if (block.on_ssd) {
    promoted = BlockMeta{.name = block.meta.name,
                         .parent = block.meta.parent,
                         .generation = block.spill_generation,
                         .length = block.spill_length,
                         .digest = block.spill_digest,
                         .publisher = block.meta.publisher,
                         .encoding = block.spill_encoding};
  }
  block.fill_generation = ++generation_;
  block.slot = slot;
  block.in_slot = true;
  ++slots_used_;
  block.filling = true;
  ++filling_;
  return Filling(this, id, slot, std::move(promoted));
}

absl::StatusOr<BlockPin> BlockPool::CommitFill(BlockId id, uint64_t length, uint64_t digest, uint64_t publisher) {
  SlotHeader header{.length = length, .digest = digest, .publisher = publisher};
  uint32_t slot = 0;
  {
    MutexLock lock(mutex_);
    header.name = blocks_[id].meta.name;
    header.generation = blocks_[id].fill_generation;
    slot = blocks_[id].slot;
  }
  SlotView<std::byte>(slot_bytes(slot), geometry_).set_header(header);  // bytes first, name second

  MutexLock lock(mutex_);
  Block& block = blocks_[id];
  const bool parent_held = !block.meta.parent.has_value() ||
                           (block.parent != kNoBlock && !blocks_[block.parent].withdrawn &&
                            (!blocks_[block.parent].filling || blocks_[block.parent].on_ssd));
  block.filling = false;
  --filling_;
  filled_.NotifyAll();
  if (block.withdrawn || !parent_held) {
    FreeSlot(block);
    if (!block.withdrawn) Withdraw(id, GoneReason::kNone);
    FreeEntryIfUnused(id);
    return absl::FailedPreconditionError("the parent is not held here: it left meanwhile, or has not come yet");
  }
  block.meta.generation = header.generation;
  block.meta.length = length;
  block.meta.digest = digest;
  block.meta.publisher = publisher;
  block.dram_since = Hundredths();
  block.ranked = false;  // its request ranks it, or its last unpin
  ++blocks_dram_;
  slot_map_.Enter(block.meta.name, block.slot, header.generation);
  Announce(block, Residence::kDram, GoneReason::kNone);
  return PinLocked(id);
}

void BlockPool::AbandonFill(BlockId id) {
  MutexLock lock(mutex_);
  Block& block = blocks_[id];
  block.filling = false;
  --filling_;
  FreeSlot(block);
  filled_.NotifyAll();
  if (!block.withdrawn && !block.on_ssd) Withdraw(id, GoneReason::kNone);
  FreeEntryIfUnused(id);
}

bool BlockPool::GiveUpFill(BlockId id) {
  MutexLock lock(mutex_);
  const Block& block = blocks_[id];
  if (block.awaited > 0) return false;
  if (!block.withdrawn && !block.on_ssd) Withdraw(id, GoneReason::kNone);
  filled_.NotifyAll();
  return true;
}

void BlockPool::EndAwait(BlockId id) {
  MutexLock lock(mutex_);
  Block& block = blocks_[id];
  STEM_CHECK(block.awaited > 0);
  if (--block.awaited > 0) return;
  FreeEntryIfUnused(id);
  if (slot_waiters_ > 0) slot_freed_.NotifyAll();  // it may be evicted now
}

absl::StatusOr<uint32_t> BlockPool::TakeSlot(absl::Time deadline) {
  while (slots_left() == 0) {
    if (EvictOne()) continue;
    const absl::Duration left = deadline - absl::Now();
    if (options_.ssd_bytes_max == 0 || spill_failing_ || left <= absl::ZeroDuration()) {
      return absl::ResourceExhaustedError(absl::StrCat("no free slot: ", slots_, " slots, ", slots_max_, " may be used, ", slots_pinned_, " pinned, ",
                                                       filling_, " being filled, the rest parents of those or waiting for the SSD"));
    }
    ++slot_waiters_;
    spill_demand_.NotifyOne();
    slot_freed_.WaitFor(mutex_, left);
    --slot_waiters_;
  }
  const uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  if (SpillWanted()) spill_demand_.NotifyOne();
  return slot;
}

}  // namespace stem
