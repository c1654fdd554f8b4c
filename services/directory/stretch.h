// Up to 128 consecutive blocks of one chain, stored once for all who hold them: their fingerprints in chain order, and
// who holds which of them. Nothing relies on the blocks being of one chain: every fingerprint is compared, and being
// neighbours only makes the comparison cheap. One thread writes while others read; all shared words are atomic.
//   Source of the sizes: services/directory/README.md, "Memory".
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "services/directory/index_memory.h"

namespace stem {

using NodeSlot = uint16_t;

inline constexpr uint32_t kStretchBlocksMax = 128;

// One bit per block of a stretch.
__extension__ using BlockMask = unsigned __int128;

constexpr BlockMask MaskOf(uint32_t first, uint32_t last) {
  return (~BlockMask{0} >> (kStretchBlocksMax - 1 - (last - first))) << first;
}
constexpr uint32_t LowestBit(BlockMask mask) {  // 128 when there is none
  const auto low = static_cast<uint64_t>(mask);
  return static_cast<uint32_t>(low != 0 ? std::countr_zero(low) : 64 + std::countr_zero(static_cast<uint64_t>(mask >> 64)));
}
constexpr uint32_t CountBits(BlockMask mask) {
  return static_cast<uint32_t>(std::popcount(static_cast<uint64_t>(mask)) + std::popcount(static_cast<uint64_t>(mask >> 64)));
}

// A slot has blocks first..last of the stretch in `tier`, a stemcache::v1::Tier (1..3).
struct HolderSpan {
  NodeSlot slot = 0;
  uint8_t tier = 0;
  uint8_t first = 0;
  uint8_t last = 0;

  BlockMask mask() const { return MaskOf(first, last); }
  uint32_t Pack() const {
    return slot | static_cast<uint32_t>(tier) << 16 | static_cast<uint32_t>(first) << 18 | static_cast<uint32_t>(last) << 25;
  }
  static HolderSpan Unpack(uint32_t word) {
    return {.slot = static_cast<NodeSlot>(word),
            .tier = static_cast<uint8_t>(word >> 16 & 3),
            .first = static_cast<uint8_t>(word >> 18 & 127),
            .last = static_cast<uint8_t>(word >> 25)};
  }
  friend bool operator==(const HolderSpan&, const HolderSpan&) = default;
};

// Spans that do not fit into their stretch. A span that is no more is 0; its place is used again.
struct HolderList {
  std::atomic<uint32_t> used;  // spans, with those that are 0
  uint32_t capacity;
  std::atomic<uint32_t> spans[1];  // `capacity` of them

  static constexpr size_t BytesOf(size_t spans) { return 8 + 4 * spans; }
  static constexpr uint32_t CapacityOf(size_t bytes) { return static_cast<uint32_t>((bytes - 8) / 4); }
};

struct Stretch {
  enum State : uint8_t { kFree = 0, kLive = 1, kRetired = 2 };

  std::atomic<uint8_t> state;
  std::atomic<uint8_t> count;    // fingerprints in use, with holes
  std::atomic<uint8_t> touched;  // a match saw it since it was last looked at
  uint8_t capacity;              // fingerprints, even
  uint8_t uncounted;             // 1: in engines' own caches, see PrefixIndex::Counted
  uint8_t reserved[3];
  // Two packed spans (0 = none), or kListed in the low half and the reference of a HolderList in the high one.
  std::atomic<uint64_t> holders;

  static constexpr uint32_t kListed = 1;  // of tier 0, which no span has

  // Fingerprint of each block; 0 = a hole, whose block nobody has any more.
  std::atomic<uint64_t>* words() { return reinterpret_cast<std::atomic<uint64_t>*>(this + 1); }
  const std::atomic<uint64_t>* words() const { return reinterpret_cast<const std::atomic<uint64_t>*>(this + 1); }
  uint64_t word(uint32_t block) const { return words()[block].load(std::memory_order_acquire); }

  static constexpr size_t BytesOf(size_t blocks) { return sizeof(uint64_t) * (2 + blocks); }
};
static_assert(sizeof(Stretch) == 16 && sizeof(std::atomic<uint64_t>) == 8);

// Calls visit(HolderSpan) for every span of `holders`, a value of Stretch::holders.
template <typename Visit>
void ForEachSpan(uint64_t holders, const IndexMemory& memory, Visit visit) {
  const auto low = static_cast<uint32_t>(holders);
  const auto high = static_cast<uint32_t>(holders >> 32);
  if (low != Stretch::kListed) {
    if (low != 0) visit(HolderSpan::Unpack(low));
    if (high != 0) visit(HolderSpan::Unpack(high));
    return;
  }
  const auto* list = static_cast<const HolderList*>(memory.At(high));
  const uint32_t used = list->used.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < used; ++i) {
    if (const uint32_t span = list->spans[i].load(std::memory_order_acquire); span != 0) visit(HolderSpan::Unpack(span));
  }
}

}  // namespace stem
