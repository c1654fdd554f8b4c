#include "services/directory/stretch_store.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"

namespace stem {
namespace {

using Spans = absl::InlinedVector<HolderSpan, 8>;

Spans SpansOf(NodeSlot slot, const TierMasks& masks) {
  Spans spans;
  for (uint8_t tier = 1; tier < masks.tiers.size(); ++tier) {
    for (BlockMask rest = masks.tiers[tier]; rest != 0;) {
      const uint32_t first = LowestBit(rest);
      const uint32_t count = LowestBit(~(rest >> first));
      const uint32_t last = first + count - 1;
      spans.push_back({.slot = slot, .tier = tier, .first = static_cast<uint8_t>(first), .last = static_cast<uint8_t>(last)});
      rest &= ~MaskOf(first, last);
    }
  }
  return spans;
}

bool IsListed(uint64_t holders) { return static_cast<uint32_t>(holders) == Stretch::kListed; }

}  // namespace

StretchStore::StretchStore(uint64_t bytes_max) : bytes_max_(bytes_max), memory_(bytes_max), table_(memory_, epochs_) {}

uint32_t StretchStore::Follow(const Stretch& stretch, uint32_t block, std::span<const uint64_t> fingerprints) {
  const uint32_t count = stretch.count.load(std::memory_order_acquire);
  if (block >= count) return 0;
  const auto most = static_cast<uint32_t>(std::min<size_t>(count - block, fingerprints.size()));
  uint32_t followed = 0;
  const auto differs = [&](uint32_t i) { return stretch.word(block + i) ^ fingerprints[i]; };
  // Four at a time: one branch, and the loads go side by side.
  while (followed + 4 <= most && (differs(followed) | differs(followed + 1) | differs(followed + 2) | differs(followed + 3)) == 0) {
    followed += 4;
  }
  while (followed < most && differs(followed) == 0) ++followed;
  return followed;
}

IndexRef StretchStore::Allocate(IndexMemory::Kind kind, size_t bytes) {
  return memory_.Allocate(kind, bytes, BytesLeft() >= IndexMemory::kSlabBytes);
}

IndexRef StretchStore::New(uint32_t blocks) {
  const size_t bytes = IndexMemory::RoundUp(Stretch::BytesOf(blocks));
  const IndexRef ref = Allocate(IndexMemory::Kind::kStretch, bytes);
  if (ref == 0) return 0;
  Stretch& stretch = At(ref);
  stretch.count.store(0, std::memory_order_relaxed);
  stretch.touched.store(1, std::memory_order_relaxed);
  stretch.capacity = static_cast<uint8_t>(std::min<size_t>(bytes / sizeof(uint64_t) - 2, kStretchBlocksMax));
  stretch.uncounted = 0;
  stretch.holders.store(0, std::memory_order_relaxed);
  stretch.state.store(Stretch::kLive, std::memory_order_relaxed);
  return ref;
}

bool StretchStore::Put(uint64_t fingerprint, Place place) {
  Stretch& stretch = At(place.stretch);
  stretch.words()[place.block].store(fingerprint, std::memory_order_release);
  if (!table_.Insert(fingerprint, place, BytesLeft())) {
    stretch.words()[place.block].store(0, std::memory_order_release);
    return false;
  }
  const auto end = static_cast<uint8_t>(place.block + 1);
  if (end > stretch.count.load(std::memory_order_relaxed)) stretch.count.store(end, std::memory_order_release);
  return true;
}

BlockMask StretchStore::LiveBlocks(const Stretch& stretch) {
  BlockMask live = 0;
  const uint32_t count = stretch.count.load(std::memory_order_relaxed);
  for (uint32_t block = 0; block < count; ++block) {
    if (stretch.words()[block].load(std::memory_order_relaxed) != 0) live |= BlockMask{1} << block;
  }
  return live;
}

IndexRef StretchStore::Resize(IndexRef ref, uint32_t blocks) {
  Stretch& old = At(ref);
  const BlockMask live = LiveBlocks(old);
  const uint64_t holders = old.holders.load(std::memory_order_relaxed);
  const IndexRef fresh = New(blocks);
  if (fresh == 0) return 0;
  Stretch& stretch = At(fresh);
  stretch.touched.store(old.touched.load(std::memory_order_relaxed), std::memory_order_relaxed);
  stretch.uncounted = old.uncounted;
  const uint32_t count = CountBits(live);
  if (count == old.count.load(std::memory_order_relaxed)) {
    stretch.holders.store(holders, std::memory_order_relaxed);  // the list changes hands
  } else {
    std::vector<HolderSpan> spans;
    ForEachSpan(holders, memory_, [&](HolderSpan span) {
      const BlockMask left = span.mask() & live;
      if (left == 0) return;
      const uint32_t before = CountBits(live & (MaskOf(0, span.first) >> 1));
      span.first = static_cast<uint8_t>(before);
      span.last = static_cast<uint8_t>(before + CountBits(left) - 1);
      spans.push_back(span);
    });
    if (!StoreSpans(stretch, spans)) {
      stretch.state.store(Stretch::kFree, std::memory_order_relaxed);
      memory_.Free(fresh);
      return 0;
    }
    RetireList(holders);
  }
  uint32_t block = 0;
  for (BlockMask rest = live; rest != 0; rest &= rest - 1, ++block) {
    stretch.words()[block].store(old.word(LowestBit(rest)), std::memory_order_relaxed);
  }
  stretch.count.store(static_cast<uint8_t>(count), std::memory_order_release);
  block = 0;
  for (BlockMask rest = live; rest != 0; rest &= rest - 1, ++block) {
    table_.Move(stretch.word(block), {.stretch = ref, .block = LowestBit(rest)}, {.stretch = fresh, .block = block});
  }
  old.state.store(Stretch::kRetired, std::memory_order_relaxed);
  epochs_.Retire({.ref = ref});
  return fresh;
}

void StretchStore::Erase(IndexRef ref, BlockMask blocks) {
  Stretch& stretch = At(ref);
  for (BlockMask rest = blocks; rest != 0; rest &= rest - 1) {
    const uint32_t block = LowestBit(rest);
    table_.Erase(stretch.word(block), {.stretch = ref, .block = block});
    stretch.words()[block].store(0, std::memory_order_release);
  }
  uint32_t count = stretch.count.load(std::memory_order_relaxed);
  while (count > 0 && stretch.word(count - 1) == 0) --count;
  stretch.count.store(static_cast<uint8_t>(count), std::memory_order_release);
  if (count == 0) Retire(ref);
}

bool StretchStore::IsSparse(const Stretch& stretch) {
  return stretch.capacity > 8 && CountBits(LiveBlocks(stretch)) * 4 <= stretch.capacity;
}

void StretchStore::Retire(IndexRef ref) {
  RetireList(At(ref).holders.load(std::memory_order_relaxed));
  At(ref).state.store(Stretch::kRetired, std::memory_order_relaxed);
  epochs_.Retire({.ref = ref});
}

void StretchStore::RetireList(uint64_t holders) {
  if (IsListed(holders)) epochs_.Retire({.ref = ListOf(holders)});
}

TierMasks StretchStore::MasksOf(const Stretch& stretch, NodeSlot slot) const {
  TierMasks masks;
  ForEachSpan(stretch.holders.load(std::memory_order_relaxed), memory_, [&](HolderSpan span) {
    if (span.slot == slot) masks.tiers[span.tier] |= span.mask();
  });
  return masks;
}

bool StretchStore::StoreSpans(Stretch& stretch, std::span<const HolderSpan> spans) {
  const uint64_t old = stretch.holders.load(std::memory_order_relaxed);
  uint64_t holders = 0;
  if (spans.size() <= kInlineSpans) {
    for (size_t i = 0; i < spans.size(); ++i) holders |= static_cast<uint64_t>(spans[i].Pack()) << (32 * i);
  } else {
    const size_t bytes = HolderList::BytesOf(spans.size());
    if (bytes > IndexMemory::kRecordBytesMax) return false;
    const IndexRef ref = Allocate(IndexMemory::Kind::kHolders, bytes);
    if (ref == 0) return false;
    HolderList& list = ListAt(ref);
    list.capacity = HolderList::CapacityOf(IndexMemory::RoundUp(bytes));
    for (size_t i = 0; i < spans.size(); ++i) list.spans[i].store(spans[i].Pack(), std::memory_order_relaxed);
    list.used.store(static_cast<uint32_t>(spans.size()), std::memory_order_relaxed);
    holders = static_cast<uint64_t>(ref) << 32 | Stretch::kListed;
  }
  stretch.holders.store(holders, std::memory_order_release);
  RetireList(old);
  return true;
}

bool StretchStore::SetHolder(Stretch& stretch, NodeSlot slot, const TierMasks& masks) {
  const Spans wanted = SpansOf(slot, masks);
  const uint64_t holders = stretch.holders.load(std::memory_order_relaxed);
  if (IsListed(holders)) return EditList(stretch, slot, wanted);
  Spans all = wanted;
  ForEachSpan(holders, memory_, [&](HolderSpan span) {
    if (span.slot != slot) all.push_back(span);
  });
  return StoreSpans(stretch, all);
}

// In place while the list has room, so that a stretch with a thousand holders costs a scan per change and no copy.
bool StretchStore::EditList(Stretch& stretch, NodeSlot slot, std::span<const HolderSpan> wanted) {
  HolderList& list = ListAt(ListOf(stretch.holders.load(std::memory_order_relaxed)));
  const uint32_t used = list.used.load(std::memory_order_relaxed);
  absl::InlinedVector<uint32_t, 8> old;   // places of the slot's spans
  absl::InlinedVector<uint32_t, 8> room;  // places of none
  for (uint32_t i = 0; i < used; ++i) {
    const uint32_t span = list.spans[i].load(std::memory_order_relaxed);
    if (span == 0) {
      room.push_back(i);
    } else if (HolderSpan::Unpack(span).slot == slot) {
      old.push_back(i);
    }
  }
  const size_t others = used - old.size() - room.size();
  const size_t more = wanted.size() - std::min(wanted.size(), old.size());
  if (others + wanted.size() <= kInlineSpans || more > room.size() + (list.capacity - used)) {
    std::vector<HolderSpan> all(wanted.begin(), wanted.end());
    for (uint32_t i = 0; i < used; ++i) {
      const uint32_t span = list.spans[i].load(std::memory_order_relaxed);
      if (span != 0 && HolderSpan::Unpack(span).slot != slot) all.push_back(HolderSpan::Unpack(span));
    }
    return StoreSpans(stretch, all);
  }
  // First what comes in other places, then the old places: nothing that stays is ever unsaid.
  size_t next_room = 0;
  for (size_t i = old.size(); i < wanted.size(); ++i) {
    const uint32_t place = next_room < room.size() ? room[next_room++] : list.used.load(std::memory_order_relaxed);
    list.spans[place].store(wanted[i].Pack(), std::memory_order_release);
    if (place >= list.used.load(std::memory_order_relaxed)) list.used.store(place + 1, std::memory_order_release);
  }
  for (size_t i = 0; i < old.size(); ++i) {
    list.spans[old[i]].store(i < wanted.size() ? wanted[i].Pack() : 0, std::memory_order_release);
  }
  return true;
}

void StretchStore::Reclaim() {
  epochs_.Reclaim([this](const ReaderEpochs::Retired& what) {
    if (what.array != nullptr) {
      KeyTable::FreeArray(what.array);
    } else {
      memory_.Free(what.ref);
    }
  });
}

}  // namespace stem
