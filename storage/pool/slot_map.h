// Which slots of an arena are Ready, in memory that the node writes and its clients map read-only: they find a block without a call, copy it
// and then look whether it was there all the time. Bytes: proto/FORMAT.md.
//
// A stamp for each slot: the generation of what is Ready in it, 0 = nothing is. Then lines of eight entries, each half of the name's hash and a
// slot. A name may stand in either of two lines; where both are full it stands in none, and its readers ask the node.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "proto/block_key.h"
#include "proto/status.h"

namespace stem {

// Where everything lies in the map of so many slots. All in bytes from its start.
struct SlotMapLayout {
  static constexpr size_t kLineEntries = 8;  // a cache line

  explicit constexpr SlotMapLayout(uint32_t slots) : slots_(slots), lines_(std::bit_ceil(uint64_t{slots} / 4 + 1)) {}

  constexpr uint64_t lines() const { return lines_; }
  constexpr uint64_t entries_offset() const { return (uint64_t{slots_} * sizeof(uint64_t) + 63) / 64 * 64; }
  constexpr uint64_t bytes() const { return entries_offset() + lines_ * kLineEntries * sizeof(uint64_t); }

 private:
  uint32_t slots_;
  uint64_t lines_;  // power of two; half full or less
};

// The node's end. Threads: one at a time.
class SlotMapWriter {
 public:
  // Without memory it does nothing.
  SlotMapWriter() = default;
  // `memory`: zeroed, SlotMapLayout(slots).bytes() long, aligned to 64; borrowed.
  SlotMapWriter(std::span<std::byte> memory, uint32_t slots);

  // The slot's header and payload are written, and stay as they are until Leave.
  void Enter(const BlockName& name, uint32_t slot, uint64_t generation);
  // Before a byte of the slot changes. Whoever writes it has taken a lock that the caller holds, or one after it.
  void Leave(const BlockName& name, uint32_t slot);

 private:
  std::span<uint64_t> stamps_;
  std::span<uint64_t> entries_;
};

// A client's end. Believes nothing: slots are checked, names are for the caller to compare. Threads: any.
class SlotMap {
 public:
  struct Place {
    uint32_t slot = 0;
    uint64_t generation = 0;
  };

  // `memory` is borrowed. Errors: InvalidArgument (another length than the map of so many slots has).
  static absl::StatusOr<SlotMap> Over(std::span<const std::byte> memory, uint32_t slots);

  // Where `name` may be: the first candidate that `is_it(place)` says yes to, by the slot's header.
  template <typename IsIt>
  std::optional<Place> Find(const BlockName& name, IsIt is_it) const;
  // Whether `place` is as it was found. After its bytes were copied: they are what was found.
  bool Holds(const Place& place) const;

 private:
  SlotMap(std::span<const uint64_t> stamps, std::span<const uint64_t> entries) : stamps_(stamps), entries_(entries) {}

  std::span<const uint64_t> stamps_;
  std::span<const uint64_t> entries_;
};

// ---- Details ----------------------------------------------------------------------------------------------------------------

namespace slot_map_internal {

static_assert(std::atomic_ref<uint64_t>::is_always_lock_free);

// A word that another process may write.
inline uint64_t Load(const uint64_t& word) { return std::atomic_ref(const_cast<uint64_t&>(word)).load(std::memory_order_acquire); }

// The two lines of a name, and what its entries there begin with. Names are uniformly distributed: their words serve as hashes.
struct Home {
  Home(const BlockName& name, size_t entries)
      : mask(entries / SlotMapLayout::kLineEntries - 1),
        first((name.key.low ^ name.space.low) & mask),
        second((name.key.high ^ name.space.high) & mask),
        tag((name.key.low ^ name.key.high) >> 32) {}

  size_t line(size_t which) const { return (which == 0 ? first : second) * SlotMapLayout::kLineEntries; }
  uint64_t entry(uint32_t slot) const { return tag << 32 | (uint64_t{slot} + 1); }

  uint64_t mask;
  uint64_t first;
  uint64_t second;
  uint64_t tag;
};

}  // namespace slot_map_internal

template <typename IsIt>
std::optional<SlotMap::Place> SlotMap::Find(const BlockName& name, IsIt is_it) const {
  const slot_map_internal::Home home(name, entries_.size());
  for (const size_t line : {home.line(0), home.line(1)}) {
    for (const uint64_t& word : entries_.subspan(line, SlotMapLayout::kLineEntries)) {
      const uint64_t entry = slot_map_internal::Load(word);
      const uint64_t slot = (entry & 0xFFFFFFFF) - 1;
      if (entry >> 32 != home.tag || slot >= stamps_.size()) continue;
      const Place place{.slot = static_cast<uint32_t>(slot), .generation = slot_map_internal::Load(stamps_[slot])};
      if (place.generation != 0 && is_it(place)) return place;
    }
  }
  return std::nullopt;
}

}  // namespace stem
