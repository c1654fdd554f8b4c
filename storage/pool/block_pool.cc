#include "storage/pool/block_pool.h"

#include <algorithm>
#include <utility>

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

// ---- Construction and looking -------------------------------------------------------------------------------------------

BlockPool::BlockPool(std::span<std::byte> arena, SlotGeometry geometry, Options options)
    : arena_(arena),
      geometry_(geometry),
      options_(std::move(options)),
      slots_(SlotsIn(arena.size(), geometry)),
      began_(absl::Now()),
      slot_map_(options_.slot_map.empty() ? SlotMapWriter() : SlotMapWriter(options_.slot_map, slots_)),
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
