// All stretches, the table that finds their blocks, and the memory they lie in, under one limit. Knows slots only as
// numbers. One writer; readers hold a ReaderEpochs::Guard of epochs() while they use what they found.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "services/directory/index_memory.h"
#include "services/directory/key_table.h"
#include "services/directory/reader_epochs.h"
#include "services/directory/stretch.h"

namespace stem {

// One slot's blocks of a stretch, by stemcache::v1::Tier; no block is in two.
struct TierMasks {
  std::array<BlockMask, 4> tiers{};

  BlockMask all() const { return tiers[1] | tiers[2] | tiers[3]; }
};

class StretchStore {
 public:
  explicit StretchStore(uint64_t bytes_max);
  StretchStore(const StretchStore&) = delete;
  StretchStore& operator=(const StretchStore&) = delete;

  // Any thread.

  ReaderEpochs& epochs() const { return epochs_; }
  const IndexMemory& memory() const { return memory_; }
  Stretch& At(IndexRef ref) const { return *static_cast<Stretch*>(memory_.At(ref)); }
  std::optional<Place> Find(uint64_t fingerprint) const { return table_.Find(fingerprint); }
  void Prefetch(uint64_t fingerprint) const { table_.Prefetch(fingerprint); }
  // How many of `fingerprints` the stretch has side by side from `block` on.
  static uint32_t Follow(const Stretch& stretch, uint32_t block, std::span<const uint64_t> fingerprints);

  // The writer's.

  // An empty stretch that takes `blocks` (1..kStretchBlocksMax) or a few more; 0 when there is no room.
  IndexRef New(uint32_t blocks);
  // `fingerprint` is absent; `place` is a hole, or the first beyond the stretch's end. False when there is no room.
  bool Put(uint64_t fingerprint, Place place);
  // Blocks that are no holes.
  static BlockMask LiveBlocks(const Stretch& stretch);
  // Moves what is live to a stretch for `blocks`, without holes. Returns it, or 0 when there is no room.
  IndexRef Resize(IndexRef ref, uint32_t blocks);
  // Nobody has `blocks`, all live, any more. A stretch that has nothing left is retired.
  void Erase(IndexRef ref, BlockMask blocks);
  // Three quarters of its place are not used: it should be resized.
  static bool IsSparse(const Stretch& stretch);

  TierMasks MasksOf(const Stretch& stretch, NodeSlot slot) const;
  // Makes the slot's spans say `masks`. A reader meanwhile sees what was, what will be, or both. False when there is no room.
  bool SetHolder(Stretch& stretch, NodeSlot slot, const TierMasks& masks);
  // Drops all spans whose slot is gone(slot). Needs no room.
  template <typename Gone>
  void PruneHolders(Stretch& stretch, Gone gone) {
    const uint64_t holders = stretch.holders.load(std::memory_order_relaxed);
    std::vector<HolderSpan> kept;
    ForEachSpan(holders, memory_, [&](HolderSpan span) {
      if (!gone(span.slot)) kept.push_back(span);
    });
    if (kept.size() <= kInlineSpans) {
      StoreSpans(stretch, kept);
      return;
    }
    HolderList& list = ListAt(ListOf(holders));
    const uint32_t used = list.used.load(std::memory_order_relaxed);
    for (uint32_t i = 0; i < used; ++i) {
      const uint32_t span = list.spans[i].load(std::memory_order_relaxed);
      if (span != 0 && gone(HolderSpan::Unpack(span).slot)) list.spans[i].store(0, std::memory_order_release);
    }
  }

  // Frees what readers have left.
  void Reclaim();

  uint64_t bytes() const { return memory_.bytes() + table_.bytes(); }
  uint64_t BytesLeft() const { return bytes() < bytes_max_ ? bytes_max_ - bytes() : 0; }

 private:
  static constexpr size_t kInlineSpans = 2;  // up to this many lie in the stretch itself

  static IndexRef ListOf(uint64_t holders) { return static_cast<IndexRef>(holders >> 32); }
  HolderList& ListAt(IndexRef ref) const { return *static_cast<HolderList*>(memory_.At(ref)); }
  IndexRef Allocate(IndexMemory::Kind kind, size_t bytes);
  // Replaces all spans. False, and nothing is changed, when there is no room.
  bool StoreSpans(Stretch& stretch, std::span<const HolderSpan> spans);
  bool EditList(Stretch& stretch, NodeSlot slot, std::span<const HolderSpan> wanted);
  void RetireList(uint64_t holders);
  void Retire(IndexRef ref);

  const uint64_t bytes_max_;
  IndexMemory memory_;
  mutable ReaderEpochs epochs_;
  KeyTable table_;
};

}  // namespace stem
