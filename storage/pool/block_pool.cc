#include "storage/pool/block_pool.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/check.h"

namespace stem {
namespace {
constexpr size_t kEntriesPerLock = 4096;
constexpr size_t kNamesPerLock = 256;
constexpr PolicyKind kSsdPolicy = PolicyKind::kLru;

// What the quota holds, for policies that divide it up.
size_t SsdBlocks(const BlockPool::Options& options, const SlotGeometry& geometry) {
  return std::max<size_t>(options.ssd_bytes_max / SpillRecordBytes(geometry.block_bytes_max()), 1);
}

uint64_t PolicyKey(const BlockName& name) { return name.key.low ^ name.space.low; }

}  // namespace

// ---- Handles ------------------------------------------------------------------------------------------------------------

BlockPin::BlockPin(BlockPin&& other) noexcept
    : pool_(std::exchange(other.pool_, nullptr)), id_(other.id_), slot_(other.slot_), meta_(other.meta_) {}

BlockPin& BlockPin::operator=(BlockPin&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(id_, other.id_);
  std::swap(slot_, other.slot_);
  std::swap(meta_, other.meta_);
  return *this;
}

BlockPin::~BlockPin() {
  if (pool_ != nullptr) pool_->Unpin(id_);
}

SlotView<const std::byte> BlockPin::view() const { return {pool_->slot_bytes(slot_), pool_->geometry_}; }

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

// ---- Construction and looking -------------------------------------------------------------------------------------------

BlockPool::BlockPool(std::span<std::byte> arena, SlotGeometry geometry, Options options)
    : arena_(arena),
      geometry_(geometry),
      options_(std::move(options)),
      slots_(static_cast<uint32_t>(arena.size() / geometry.slot_bytes)),
      began_(absl::Now()),
      slots_max_(slots_),
      ssd_bytes_max_(options_.ssd_bytes_max),
      dram_policy_(MakeLeafFirstPolicy(options_.policy, std::max<uint32_t>(slots_, 1))),
      ssd_policy_(MakeLeafFirstPolicy(kSsdPolicy, SsdBlocks(options_, geometry_))),
      admission_(options_.ssd_bytes_max == 0 ? AdmissionKind::kAlways : options_.admission, SsdBlocks(options_, geometry_)) {
  free_slots_.reserve(slots_);
  for (uint32_t slot = slots_; slot > 0; --slot) free_slots_.push_back(slot - 1);
}

BlockPool::~BlockPool() {
  MutexLock lock(mutex_);
  STEM_CHECK(pins_ == 0 && filling_ == 0);  // a handle would point into freed memory
}

std::span<std::byte> BlockPool::slot_bytes(uint32_t slot) const {
  return arena_.subspan(slot * geometry_.slot_bytes, geometry_.slot_bytes);
}

BlockPool::Presence BlockPool::Find(const BlockName& name) const {
  MutexLock lock(mutex_);
  return FindLocked(name);
}

void BlockPool::FindAll(std::span<const BlockName> names, std::vector<Presence>& found) const {
  for (size_t next = 0; next < names.size();) {
    MutexLock lock(mutex_);
    for (const size_t end = std::min(next + kNamesPerLock, names.size()); next < end; ++next) found.push_back(FindLocked(names[next]));
  }
}

BlockPool::Presence BlockPool::FindLocked(const BlockName& name) const {
  const auto it = table_.find(name);
  if (it == table_.end()) return Presence::kAbsent;
  const Block& block = blocks_[it->second];
  if (block.filling) return Presence::kFilling;
  return block.in_slot ? Presence::kDram : Presence::kSsd;
}

BlockPin BlockPool::PinLocked(BlockId id) {
  Block& block = blocks_[id];
  if (block.pins++ == 0) ++slots_pinned_;
  ++pins_;
  return BlockPin(this, id, block.slot, block.meta);
}

BlockPin BlockPool::Pin(const BlockName& name) {
  MutexLock lock(mutex_);
  return PinNamed(name);
}

void BlockPool::PinRun(std::span<const BlockName> names, std::vector<BlockPin>& pins) {
  for (size_t next = 0; next < names.size();) {
    MutexLock lock(mutex_);
    for (const size_t end = std::min(next + kNamesPerLock, names.size()); next < end; ++next) {
      BlockPin pin = PinNamed(names[next]);
      if (!pin.valid()) return;
      pins.push_back(std::move(pin));
    }
  }
}

BlockPin BlockPool::PinNext(BlockId* next) {
  MutexLock lock(mutex_);
  const size_t end = std::min<size_t>(*next + kEntriesPerLock, blocks_.size());
  for (; *next < end; ++*next) {
    const Block& block = blocks_[*next];
    if (block.used && !block.withdrawn && block.in_slot && !block.filling) return PinLocked((*next)++);
  }
  if (*next >= blocks_.size()) *next = 0;
  return {};
}

BlockPin BlockPool::PinNamed(const BlockName& name) {
  const auto it = table_.find(name);
  if (it == table_.end()) return {};
  const Block& block = blocks_[it->second];
  if (!block.in_slot || block.filling) return {};
  return PinLocked(it->second);
}

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

void BlockPool::Touch(std::span<const BlockName> names, const BlockUse& use) {
  MutexLock lock(mutex_);
  uint64_t request = 0;
  for (const BlockName& name : names) {
    const auto it = table_.find(name);
    if (it == table_.end()) continue;
    const Block& block = blocks_[it->second];
    if (request == 0) request = RequestOf(block);
    UseLocked(it->second, request, use);
  }
}

BlockInfo BlockPool::InfoOf(const Block& block, const BlockUse& use) const {
  return {.key = PolicyKey(block.meta.name),
          .parent = block.parent,
          .depth = block.depth,
          .request = block.request,
          .conversation = use.conversation,
          .copied = use.copied};
}

void BlockPool::UseLocked(BlockId id, uint64_t request, const BlockUse& use) {
  Block& block = blocks_[id];
  block.request = request;
  const BlockInfo info = InfoOf(block, use);
  if (block.ranked) {
    dram_policy_->Touch(id, info);
  } else if (block.in_slot && !block.filling && block.kept == 0) {
    block.ranked = true;
    dram_policy_->Admit(id, info);
  }
  if (block.on_ssd) ssd_policy_->Touch(id, info);
  admission_.Use(info);
}

uint64_t BlockPool::RequestOf(const Block& block) {
  return block.parent == kNoBlock ? ++requests_ : blocks_[block.parent].request;
}

void BlockPool::EndConversation(uint64_t conversation) {
  MutexLock lock(mutex_);
  dram_policy_->EndConversation(conversation);
  admission_.EndConversation(conversation);
}

// ---- Filling ------------------------------------------------------------------------------------------------------------

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
    promoted = block.meta;
    promoted->generation = block.spill_generation;
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
    return absl::FailedPreconditionError("the parent left this node meanwhile");
  }
  block.meta.generation = header.generation;
  block.meta.length = length;
  block.meta.digest = digest;
  block.meta.publisher = publisher;
  block.dram_since = Hundredths();
  block.ranked = false;  // its request ranks it, or its last unpin
  ++blocks_dram_;
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

// ---- Leaving ------------------------------------------------------------------------------------------------------------

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
  if (ready) {
    dram_policy_->Remove(id);
    block.ranked = false;
    --blocks_dram_;
  }
  if (block.on_ssd) {
    ssd_policy_->Remove(id);
    --blocks_ssd_;
    ssd_bytes_ -= SpillRecordBytes(block.meta.length);
  }
  const bool named = ready || block.on_ssd;
  block.on_ssd = false;
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

// ---- Entries, snapshot, figures ------------------------------------------------------------------------------------------

BlockId BlockPool::NewBlock(const BlockName& name, const std::optional<BlockKey>& parent) {
  BlockId id = static_cast<BlockId>(blocks_.size());
  if (free_ids_.empty()) {
    blocks_.emplace_back();
  } else {
    id = free_ids_.back();
    free_ids_.pop_back();
  }
  Block& block = blocks_[id];
  block.used = true;
  block.meta.name = name;
  block.meta.parent = parent;
  table_[name] = id;
  if (parent.has_value()) {
    ++orphans_;
    if (const auto it = table_.find(BlockName{name.space, *parent}); it != table_.end()) Link(id, it->second);
  }
  return id;
}

void BlockPool::Link(BlockId id, BlockId parent) {
  Block& block = blocks_[id];
  --orphans_;
  block.parent = parent;
  block.depth = blocks_[parent].depth + 1;
  block.next_sibling = blocks_[parent].first_child;
  if (block.next_sibling != kNoBlock) blocks_[block.next_sibling].previous_sibling = id;
  blocks_[parent].first_child = id;
}

void BlockPool::Snapshot(const std::function<void(const BlockChange&)>& visit) const {
  for (size_t first = 0;; first += kEntriesPerLock) {
    MutexLock lock(mutex_);
    if (first >= blocks_.size()) return;
    const size_t end = std::min(first + kEntriesPerLock, blocks_.size());
    for (size_t id = first; id < end; ++id) {
      const Block& block = blocks_[id];
      if (!block.used || block.withdrawn || (block.filling && !block.on_ssd)) continue;
      visit({.name = block.meta.name,
             .parent = block.meta.parent,
             .residence = block.in_slot && !block.filling ? Residence::kDram : Residence::kSsd,
             .reason = GoneReason::kNone});
    }
  }
}

void BlockPool::Announce(const Block& block, Residence residence, GoneReason reason) {
  if (!options_.on_change) return;
  options_.on_change(
      {.name = block.meta.name, .parent = block.meta.parent, .residence = residence, .reason = reason});
}

uint32_t BlockPool::Hundredths() const {
  return static_cast<uint32_t>((absl::Now() - began_) / absl::Milliseconds(10));
}

void BlockPool::TellLeft(const Block& block, Residence from, GoneReason reason) {
  if (!options_.on_leave) return;
  const bool dram = from == Residence::kDram;
  absl::string_view by = NameOf(dram ? options_.policy : kSsdPolicy);
  if (reason == GoneReason::kSpillRejected) by = spill_failing_ ? "failed write" : NameOf(options_.admission);
  if (reason == GoneReason::kIntegrity || reason == GoneReason::kWithdrawn) by = "";
  const uint32_t now = Hundredths();
  const uint32_t since = dram ? block.dram_since : block.ssd_since;
  options_.on_leave({.name = block.meta.name,
                     .from = from,
                     .reason = reason,
                     .by = by,
                     .age = absl::Milliseconds(10) * (now - std::min(now, since))});
}

BlockPool::Stats BlockPool::stats() const {
  MutexLock lock(mutex_);
  return {.slots_free = free_slots_.size(),
          .slots_used = slots_used_,
          .slots_pinned = slots_pinned_,
          .slots_kept = slots_kept_,
          .slots_max = slots_max_,
          .ssd_bytes_max = ssd_bytes_max_,
          .pins = pins_,
          .filling = filling_,
          .blocks_dram = blocks_dram_,
          .blocks_ssd = blocks_ssd_,
          .ssd_bytes = ssd_bytes_,
          .evicted = evicted_,
          .spill_rejected = spill_rejected_,
          .orphans = orphans_,
          .quarantined = quarantined_,
          .quarantined_below = quarantined_below_};
}

}  // namespace stem
