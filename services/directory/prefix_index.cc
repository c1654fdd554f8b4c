#include "services/directory/prefix_index.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace stem {

namespace v1 = ::stemcache::v1;

namespace {

constexpr size_t kTurnKeys = 1024;    // that a writer handles before it lets others in
constexpr uint32_t kLookahead = 8;    // keys whose place in the table is fetched ahead
constexpr int kRoomTriesMax = 64;     // slabs that are searched for room before a block is shed

// For clang, in lambdas that run under the lock of the function that made them.
void AssertHeld([[maybe_unused]] const Mutex& mutex) ABSL_ASSERT_EXCLUSIVE_LOCK(mutex) {}

}  // namespace

PrefixIndex::PrefixIndex(const PrefixIndexOptions& options)
    : options_(options),
      ghosts_(options.ghosts_max),
      store_(options.bytes_max > ghosts_.bytes() ? options.bytes_max - ghosts_.bytes() : 0),
      words_(kSlotsMax),
      counters_(kSlotsMax) {}

absl::StatusOr<SlotHandle> PrefixIndex::OpenSlot() {
  MutexLock lock(mutex_);
  if (free_.empty()) {
    if (slots_used_ == kSlotsMax) {
      return absl::ResourceExhaustedError(absl::StrCat("all ", kSlotsMax, " holder slots are in use; try again later"));
    }
    free_.push_back(static_cast<NodeSlot>(slots_used_++));
  }
  const SlotHandle handle{.slot = free_.back(), .generation = (words_[free_.back()].load() >> 2) + 1};
  free_.pop_back();
  counters_[handle.slot].pool.store(0);
  counters_[handle.slot].ssd.store(0);
  words_[handle.slot].store(Word(handle.generation, SlotState::kOpen));
  return handle;
}

void PrefixIndex::CloseSlot(SlotHandle handle, SlotEnd end) {
  // No lock: a node that is gone is out of sight now, whoever writes.
  uint32_t open = Word(handle.generation, SlotState::kOpen);
  const SlotState state = end == SlotEnd::kLost ? SlotState::kLost : SlotState::kSuperseded;
  if (words_[handle.slot].compare_exchange_strong(open, Word(handle.generation, state))) closed_.fetch_add(1);
}

PrefixIndex::Piece PrefixIndex::Reader::Find(std::span<const uint64_t> fingerprints) const {
  const std::optional<Place> place = index_.store_.Find(fingerprints[0]);
  if (!place) return {};
  Stretch& stretch = index_.store_.At(place->stretch);
  if (stretch.touched.load(std::memory_order_relaxed) == 0) stretch.touched.store(1, std::memory_order_relaxed);
  return {.count = StretchStore::Follow(stretch, place->block, fingerprints),
          .block = place->block,
          .holders = stretch.holders.load(std::memory_order_acquire)};
}

void PrefixIndex::AddRun(SlotHandle handle, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent,
                         v1::Tier tier, Counted counted) {
  while (!fingerprints.empty()) {
    const auto some = fingerprints.first(std::min(fingerprints.size(), kTurnKeys));
    MutexLock lock(mutex_);
    // Checked under the lock: if the slot closes after this, the sweep comes later still.
    if (!IsOpen(handle)) return;
    AddSome(handle.slot, some, parent, static_cast<uint8_t>(tier), counted);
    EndWrite();
    parent = some.back();
    fingerprints = fingerprints.subspan(some.size());
  }
}

void PrefixIndex::AddSome(NodeSlot slot, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent,
                          uint8_t tier, Counted counted) {
  std::optional<Place> last = parent ? store_.Find(*parent) : std::nullopt;
  while (!fingerprints.empty()) {
    Place first;
    uint32_t count = 0;
    if (last) {
      first = {.stretch = last->stretch, .block = last->block + 1};
      count = StretchStore::Follow(store_.At(first.stretch), first.block, fingerprints);
    }
    if (count == 0) {
      if (const std::optional<Place> found = store_.Find(fingerprints[0])) {
        first = *found;
        count = StretchStore::Follow(store_.At(first.stretch), first.block, fingerprints);
      }
    }
    if (count == 0) {
      count = AddNew(fingerprints, last, counted);
      for (int tries = 0; count == 0 && tries < kRoomTriesMax; ++tries) {
        MakeRoom();
        last.reset();
        count = AddNew(fingerprints, last, counted);
      }
      if (count == 0) return Shed(fingerprints, counted);
      first = {.stretch = last->stretch, .block = last->block + 1 - count};
    }
    last = Place{.stretch = first.stretch, .block = first.block + count - 1};
    if (!AddHolder(first, count, slot, tier)) last.reset();
    fingerprints = fingerprints.subspan(count);
  }
}

uint32_t PrefixIndex::AddNew(std::span<const uint64_t> fingerprints, std::optional<Place>& place, Counted counted) {
  auto count = static_cast<uint32_t>(std::min<size_t>(fingerprints.size(), kStretchBlocksMax));
  for (uint32_t i = 1; i < std::min(count, kLookahead); ++i) store_.Prefetch(fingerprints[i]);
  Place next;
  if (place) {
    const Stretch& stretch = store_.At(place->stretch);
    const uint32_t end = stretch.count.load(std::memory_order_relaxed);
    const uint32_t behind = place->block + 1;
    if (behind < end && stretch.word(behind) == 0) {
      next = {.stretch = place->stretch, .block = behind};
      count = 1;
    } else if (behind == end && end < kStretchBlocksMax) {
      count = std::min(count, kStretchBlocksMax - end);
      next = {.stretch = place->stretch, .block = end};
      if (end + count > stretch.capacity) {
        const uint32_t blocks = std::min(std::max(end + count, end + end / 2 + 2), kStretchBlocksMax);
        // What is moved must be clean: a sweep may have passed the place where it comes to lie.
        next.stretch = Clean(place->stretch) ? 0 : store_.Resize(place->stretch, blocks);
        if (next.stretch != 0) next.block = store_.At(next.stretch).count.load(std::memory_order_relaxed);
      }
    }
  }
  if (next.stretch == 0) {
    next = {.stretch = store_.New(count), .block = 0};
    if (next.stretch == 0) return 0;
    store_.At(next.stretch).uncounted = counted == Counted::kNo ? 1 : 0;
  }
  uint32_t put = 0;
  while (put < count && (put == 0 || !store_.Find(fingerprints[put])) &&
         store_.Put(fingerprints[put], {.stretch = next.stretch, .block = next.block + put})) {
    ghosts_.Erase(fingerprints[put++]);
    if (put + kLookahead < count) store_.Prefetch(fingerprints[put + kLookahead - 1]);
  }
  if (store_.At(next.stretch).uncounted == 0) blocks_.fetch_add(put, std::memory_order_relaxed);
  if (put > 0) {
    if (next.block == 0 && StretchStore::IsSparse(store_.At(next.stretch))) {  // the rest of the run was here already
      const IndexRef smaller = store_.Resize(next.stretch, put);
      if (smaller != 0) next.stretch = smaller;
    }
    place = Place{.stretch = next.stretch, .block = next.block + put - 1};
  } else if (store_.At(next.stretch).count.load(std::memory_order_relaxed) == 0) {
    store_.Erase(next.stretch, 0);
  }
  return put;
}

bool PrefixIndex::AddHolder(Place first, uint32_t count, NodeSlot slot, uint8_t tier) {
  Stretch& stretch = store_.At(first.stretch);
  const TierMasks before = store_.MasksOf(stretch, slot);
  const BlockMask blocks = MaskOf(first.block, first.block + count - 1);
  TierMasks after = before;
  for (BlockMask& mask : after.tiers) mask &= ~blocks;
  after.tiers[tier] |= blocks;
  if (!store_.SetHolder(stretch, slot, after)) {
    shed_.fetch_add(count, std::memory_order_relaxed);
    Withdraw(first.stretch, slot, before, blocks, v1::MISS_CAUSE_UNKNOWN);  // rather nothing than another tier
    return false;
  }
  Count(stretch, slot, before, -1);
  Count(stretch, slot, after, 1);
  return true;
}

void PrefixIndex::RemoveRun(SlotHandle handle, std::span<const uint64_t> fingerprints, v1::MissCause cause) {
  while (!fingerprints.empty()) {
    const auto some = fingerprints.first(std::min(fingerprints.size(), kTurnKeys));
    MutexLock lock(mutex_);
    if (!IsOpen(handle)) return;
    RemoveSome(handle.slot, some, cause);
    EndWrite();
    fingerprints = fingerprints.subspan(some.size());
  }
}

void PrefixIndex::RemoveSome(NodeSlot slot, std::span<const uint64_t> fingerprints, v1::MissCause cause) {
  for (size_t i = 1; i < std::min<size_t>(fingerprints.size(), kLookahead); ++i) store_.Prefetch(fingerprints[i]);
  while (!fingerprints.empty()) {
    if (fingerprints.size() > kLookahead) store_.Prefetch(fingerprints[kLookahead]);
    const std::optional<Place> found = store_.Find(fingerprints[0]);
    if (!found) {
      fingerprints = fingerprints.subspan(1);
      continue;
    }
    const Stretch& stretch = store_.At(found->stretch);
    Place first = *found;
    uint32_t count = StretchStore::Follow(stretch, first.block, fingerprints);
    if (count == 1) {  // leaves go first: their order is often the chain's, backwards
      while (first.block > 0 && count < fingerprints.size() && stretch.word(first.block - 1) == fingerprints[count]) {
        --first.block;
        ++count;
      }
    }
    const TierMasks before = store_.MasksOf(stretch, slot);
    const BlockMask blocks = before.all() & MaskOf(first.block, first.block + count - 1);
    if (blocks != 0) Withdraw(first.stretch, slot, before, blocks, cause);
    fingerprints = fingerprints.subspan(count);
  }
}

void PrefixIndex::Withdraw(IndexRef ref, NodeSlot slot, const TierMasks& before, BlockMask blocks, v1::MissCause cause) {
  Stretch& stretch = store_.At(ref);
  TierMasks after = before;
  for (BlockMask& mask : after.tiers) mask &= ~blocks;
  if (!store_.SetHolder(stretch, slot, after)) {
    // A hole needs one span more than there is room for: what is behind it goes too.
    const BlockMask kept = (BlockMask{1} << LowestBit(blocks)) - 1;
    for (BlockMask& mask : after.tiers) mask &= kept;
    shed_.fetch_add(CountBits(before.all() & ~kept & ~blocks), std::memory_order_relaxed);
    store_.SetHolder(stretch, slot, after);
  }
  Count(stretch, slot, before, -1);
  Count(stretch, slot, after, 1);
  const BlockMask dead = (before.all() | blocks) & ~Held(stretch);
  if (dead != 0) Drop(ref, dead, cause);
}

BlockMask PrefixIndex::Held(const Stretch& stretch) const {
  BlockMask held = 0;
  ForEachSpan(stretch.holders.load(std::memory_order_relaxed), store_.memory(), [&](HolderSpan span) {
    if (StateOf(span.slot) == SlotState::kOpen) held |= span.mask();
  });
  return held;
}

void PrefixIndex::Count(const Stretch& stretch, NodeSlot slot, const TierMasks& masks, int64_t sign) {
  if (stretch.uncounted != 0) return;
  const auto pool = static_cast<int64_t>(CountBits(masks.tiers[v1::TIER_GPU] | masks.tiers[v1::TIER_DRAM]));
  const auto ssd = static_cast<int64_t>(CountBits(masks.tiers[v1::TIER_SSD]));
  if (pool != 0) counters_[slot].pool.fetch_add(static_cast<uint64_t>(sign * pool), std::memory_order_relaxed);
  if (ssd != 0) counters_[slot].ssd.fetch_add(static_cast<uint64_t>(sign * ssd), std::memory_order_relaxed);
}

void PrefixIndex::Drop(IndexRef ref, BlockMask blocks, v1::MissCause cause, BlockMask lost) {
  const Stretch& stretch = store_.At(ref);
  for (BlockMask rest = stretch.uncounted == 0 ? blocks : 0; rest != 0; rest &= rest - 1) {
    const uint32_t block = LowestBit(rest);
    ghosts_.Remember(stretch.word(block), (lost >> block & 1) != 0 ? v1::MISS_CAUSE_NODE_LOST : cause);
  }
  if (stretch.uncounted == 0) blocks_.fetch_sub(CountBits(blocks), std::memory_order_relaxed);
  store_.Erase(ref, blocks);
  if (stretch.state.load(std::memory_order_relaxed) != Stretch::kLive || !StretchStore::IsSparse(stretch)) return;
  const uint32_t live = CountBits(StretchStore::LiveBlocks(stretch));
  if (!Clean(ref)) store_.Resize(ref, live + live / 2 + 1);
}

bool PrefixIndex::Clean(IndexRef ref) {
  Stretch& stretch = store_.At(ref);
  BlockMask lost = 0;
  bool closed = false;
  ForEachSpan(stretch.holders.load(std::memory_order_relaxed), store_.memory(), [&](HolderSpan span) {
    const SlotState state = StateOf(span.slot);
    closed = closed || state != SlotState::kOpen;
    if (state == SlotState::kLost) lost |= span.mask();
  });
  if (!closed) return false;
  store_.PruneHolders(stretch, [this](NodeSlot slot) { return StateOf(slot) != SlotState::kOpen; });
  const BlockMask dead = StretchStore::LiveBlocks(stretch) & ~Held(stretch);
  if (dead != 0) Drop(ref, dead, v1::MISS_CAUSE_UNKNOWN, lost);
  return true;
}

void PrefixIndex::Forget(IndexRef ref) {
  const Stretch& stretch = store_.At(ref);
  ForEachSpan(stretch.holders.load(std::memory_order_relaxed), store_.memory(), [&](HolderSpan span) {
    TierMasks masks;
    masks.tiers[span.tier] = span.mask();
    if (StateOf(span.slot) == SlotState::kOpen) Count(stretch, span.slot, masks, -1);
  });
  const BlockMask live = StretchStore::LiveBlocks(stretch);
  shed_.fetch_add(CountBits(live), std::memory_order_relaxed);
  Drop(ref, live, v1::MISS_CAUSE_UNKNOWN);
}

void PrefixIndex::MakeRoom() {
  if (++room_slab_ >= store_.memory().slabs()) room_slab_ = 1;
  if (room_slab_ >= store_.memory().slabs()) return;
  store_.memory().ForEach(IndexMemory::Kind::kStretch, room_slab_, [this](IndexRef ref) {
    AssertHeld(mutex_);
    Stretch& stretch = store_.At(ref);
    if (stretch.state.load(std::memory_order_relaxed) != Stretch::kLive) return;
    if (stretch.touched.load(std::memory_order_relaxed) != 0) {
      stretch.touched.store(0, std::memory_order_relaxed);
    } else {
      Forget(ref);
    }
  });
  store_.Reclaim();
}

void PrefixIndex::Shed(std::span<const uint64_t> fingerprints, Counted counted) {
  if (counted == Counted::kYes) {
    for (const uint64_t fingerprint : fingerprints) ghosts_.Remember(fingerprint, v1::MISS_CAUSE_UNKNOWN);
  }
  shed_.fetch_add(fingerprints.size(), std::memory_order_relaxed);
}

void PrefixIndex::EndWrite() {
  store_.Reclaim();
  bytes_.store(store_.bytes() + ghosts_.bytes(), std::memory_order_relaxed);
}

bool PrefixIndex::Step() {
  MutexLock lock(mutex_);
  if (sweeping_.empty()) {
    if (closed_.load() <= 0) return false;
    for (size_t slot = 0; slot < slots_used_; ++slot) {
      const SlotState state = StateOf(static_cast<NodeSlot>(slot));
      if (state == SlotState::kLost || state == SlotState::kSuperseded) sweeping_.push_back(static_cast<NodeSlot>(slot));
    }
    closed_.fetch_sub(static_cast<int32_t>(sweeping_.size()));
    sweep_slab_ = 1;
  }
  if (sweep_slab_ < store_.memory().slabs()) {
    store_.memory().ForEach(IndexMemory::Kind::kStretch, sweep_slab_++, [this](IndexRef ref) {
      AssertHeld(mutex_);
      if (store_.At(ref).state.load(std::memory_order_relaxed) == Stretch::kLive) Clean(ref);
    });
    EndWrite();
    return true;
  }
  for (const NodeSlot slot : sweeping_) {
    words_[slot].store(Word(words_[slot].load() >> 2, SlotState::kFree));
    free_.push_back(slot);
  }
  sweeping_.clear();
  return closed_.load() > 0;
}

PrefixIndex::SlotBlocks PrefixIndex::slot_blocks(SlotHandle handle) const {
  if (!IsOpen(handle)) return {};
  return {.pool = counters_[handle.slot].pool.load(), .ssd = counters_[handle.slot].ssd.load()};
}

PrefixIndex::Counts PrefixIndex::counts() const {
  return {.blocks = blocks_.load(), .ghosts = ghosts_.size(), .bytes = bytes_.load(), .shed = shed_.load()};
}

}  // namespace stem
