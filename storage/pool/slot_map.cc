#include "storage/pool/slot_map.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {

using slot_map_internal::Home;
using slot_map_internal::Load;

namespace {

// Release: who sees the word sees what was written before it.
void Store(uint64_t& word, uint64_t value) { std::atomic_ref(word).store(value, std::memory_order_release); }

}  // namespace

SlotMapWriter::SlotMapWriter(std::span<std::byte> memory, uint32_t slots) {
  const SlotMapLayout layout(slots);
  STEM_CHECK(memory.size() >= layout.bytes());
  stamps_ = {reinterpret_cast<uint64_t*>(memory.data()), slots};
  entries_ = {reinterpret_cast<uint64_t*>(memory.data() + layout.entries_offset()), layout.lines() * SlotMapLayout::kLineEntries};
}

void SlotMapWriter::Enter(const BlockName& name, uint32_t slot, uint64_t generation) {
  if (stamps_.empty()) return;
  Store(stamps_[slot], generation);
  const Home home(name, entries_.size());
  const std::span first = entries_.subspan(home.line(0), SlotMapLayout::kLineEntries);
  const std::span second = entries_.subspan(home.line(1), SlotMapLayout::kLineEntries);
  const std::span emptier = std::ranges::count(first, 0U) >= std::ranges::count(second, 0U) ? first : second;
  const auto empty = std::ranges::find(emptier, 0U);
  if (empty != emptier.end()) Store(*empty, home.entry(slot));
}

void SlotMapWriter::Leave(const BlockName& name, uint32_t slot) {
  if (stamps_.empty()) return;
  Store(stamps_[slot], 0);
  const Home home(name, entries_.size());
  for (const size_t line : {home.line(0), home.line(1)}) {
    const std::span entries = entries_.subspan(line, SlotMapLayout::kLineEntries);
    const auto it = std::ranges::find(entries, home.entry(slot));
    if (it == entries.end()) continue;
    Store(*it, 0);
    return;
  }
}

absl::StatusOr<SlotMap> SlotMap::Over(std::span<const std::byte> memory, uint32_t slots) {
  const SlotMapLayout layout(slots);
  if (slots == 0 || memory.size() != layout.bytes()) {
    return absl::InvalidArgumentError(absl::StrCat("a slot map of ", memory.size(), " bytes; that of ", slots, " slots has ", layout.bytes()));
  }
  return SlotMap({reinterpret_cast<const uint64_t*>(memory.data()), slots},
                 {reinterpret_cast<const uint64_t*>(memory.data() + layout.entries_offset()), layout.lines() * SlotMapLayout::kLineEntries});
}

bool SlotMap::Holds(const Place& place) const {
  std::atomic_thread_fence(std::memory_order_acquire);  // what was copied was read before
  return Load(stamps_[place.slot]) == place.generation;
}

}  // namespace stem
