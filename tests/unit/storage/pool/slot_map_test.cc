// What clients find without a call: names that are Ready, no others, and nothing of what changed while it was copied.
#include "storage/pool/slot_map.h"

#include <array>
#include <atomic>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

// As hashes are: uniformly distributed.
BlockName Name(uint64_t number) {
  std::mt19937_64 words(number);
  return {{{.low = 1, .high = 2}}, {{.low = words(), .high = words()}}};
}

struct alignas(64) Line {
  std::array<std::byte, 64> bytes;
};

// The map of so many slots, both ends of it, and what headers would say.
class SlotMapTest : public ::testing::Test {
 protected:
  void Make(uint32_t slots) {
    memory_.assign((SlotMapLayout(slots).bytes() + sizeof(Line) - 1) / sizeof(Line), {});
    writer_ = SlotMapWriter(Bytes(slots), slots);
    const absl::StatusOr<SlotMap> map = SlotMap::Over(Bytes(slots), slots);
    ASSERT_TRUE(map.ok()) << map.status();
    map_.emplace(*map);
  }
  std::span<std::byte> Bytes(uint32_t slots) { return {memory_.data()->bytes.data(), SlotMapLayout(slots).bytes()}; }

  void Enter(uint64_t number, uint32_t slot) {
    headers_[slot] = Name(number);
    writer_.Enter(Name(number), slot, ++generation_);
  }
  void Leave(uint64_t number, uint32_t slot) {
    writer_.Leave(Name(number), slot);
    headers_.erase(slot);
  }
  std::optional<SlotMap::Place> Find(uint64_t number) {
    return map_->Find(Name(number), [&](const SlotMap::Place& place) {
      const auto it = headers_.find(place.slot);
      return it != headers_.end() && it->second == Name(number);
    });
  }

  std::vector<Line> memory_;
  SlotMapWriter writer_;
  std::optional<SlotMap> map_;
  std::map<uint32_t, BlockName> headers_;
  uint64_t generation_ = 0;
};

TEST_F(SlotMapTest, FindsWhatEnteredUntilItLeaves) {
  Make(16);
  EXPECT_FALSE(Find(7).has_value());
  Enter(7, 3);
  const std::optional<SlotMap::Place> place = Find(7);
  ASSERT_TRUE(place.has_value());
  EXPECT_EQ(place->slot, 3u);
  EXPECT_EQ(place->generation, 1u);
  EXPECT_TRUE(map_->Holds(*place));
  Leave(7, 3);
  EXPECT_FALSE(Find(7).has_value());
  EXPECT_FALSE(map_->Holds(*place));
  Enter(7, 3);
  EXPECT_TRUE(Find(7).has_value());
  EXPECT_FALSE(map_->Holds(*place)) << "it is another's place now, though of the same name";
}

TEST_F(SlotMapTest, FullMapsFindNearlyAllAndNothingElse) {
  constexpr uint32_t kSlots = 10'000;
  Make(kSlots);
  std::mt19937_64 random(1);
  std::vector<uint64_t> held(kSlots);
  for (uint32_t slot = 0; slot < kSlots; ++slot) Enter(held[slot] = slot, slot);
  uint64_t next = kSlots;
  for (int change = 0; change < 100'000; ++change) {
    const auto slot = static_cast<uint32_t>(random() % kSlots);
    Leave(held[slot], slot);
    Enter(held[slot] = next++, slot);
  }
  size_t found = 0;
  for (const uint64_t number : held) found += Find(number).has_value() ? 1 : 0;
  EXPECT_GE(found, kSlots - kSlots / 1000) << "two lines of eight, half full";
  for (uint64_t number = next; number < next + 10'000; ++number) EXPECT_FALSE(Find(number).has_value());
}

TEST_F(SlotMapTest, FullLinesShowNothingMore) {
  Make(64);
  const BlockName name = Name(1);
  uint32_t slot = 0;
  for (; slot < 40; ++slot) writer_.Enter(name, slot, 1);  // as many names of one hash
  std::vector<uint32_t> seen;
  map_->Find(name, [&](const SlotMap::Place& place) {
    seen.push_back(place.slot);
    return false;
  });
  EXPECT_LE(seen.size(), 16u);
  EXPECT_GE(seen.size(), 8u);
  for (slot = 0; slot < 40; ++slot) writer_.Leave(name, slot);
  EXPECT_FALSE(map_->Find(name, [](const SlotMap::Place&) { return true; }).has_value());
}

TEST_F(SlotMapTest, BelievesNoSlotThatIsNotThere) {
  constexpr uint32_t kSlots = 16;
  Make(kSlots);
  std::ranges::fill(Bytes(kSlots), std::byte{0xFF});
  for (uint64_t number = 0; number < 1000; ++number) {
    EXPECT_FALSE(map_->Find(Name(number), [](const SlotMap::Place& place) { return place.slot >= kSlots; }).has_value());
  }
}

TEST_F(SlotMapTest, RefusesMemoryOfAnotherLength) {
  Make(16);
  EXPECT_THAT(SlotMap::Over(Bytes(16), 17).status().message(), HasSubstr("that of 17 slots has"));
  EXPECT_THAT(SlotMap::Over(Bytes(16).first(100), 16).status().message(), HasSubstr("a slot map of 100 bytes"));
  EXPECT_FALSE(SlotMap::Over({}, 0).ok());
}

TEST(SlotMapThreadsTest, WhatHoldsAfterwardsWasReadWhole) {
  constexpr uint32_t kSlots = 4;
  constexpr size_t kWords = 64;
  std::vector<Line> memory((SlotMapLayout(kSlots).bytes() + sizeof(Line) - 1) / sizeof(Line));
  const std::span<std::byte> bytes(memory.data()->bytes.data(), SlotMapLayout(kSlots).bytes());
  SlotMapWriter writer(bytes, kSlots);
  const absl::StatusOr<SlotMap> map = SlotMap::Over(bytes, kSlots);
  ASSERT_TRUE(map.ok());
  std::array<std::array<std::atomic<uint64_t>, kWords>, kSlots> payloads = {};  // every word the number of the block
  std::atomic<uint64_t> newest = 0;
  std::atomic<bool> stop = false;
  std::thread node([&] {
    for (uint64_t number = 1; !stop; ++number) {
      const auto slot = static_cast<uint32_t>(number % kSlots);
      if (number > kSlots) writer.Leave(Name(number - kSlots), slot);
      for (std::atomic<uint64_t>& word : payloads[slot]) word.store(number, std::memory_order_relaxed);
      writer.Enter(Name(number), slot, number);
      newest = number;
    }
  });
  uint64_t read = 0, torn = 0;
  for (uint64_t tries = 0; tries < 2'000'000 && (read < 1000 || torn < 10); ++tries) {
    const uint64_t number = newest;
    const auto place = map->Find(Name(number), [&](const SlotMap::Place& candidate) { return candidate.generation == number; });
    if (!place.has_value()) continue;
    std::array<uint64_t, kWords> copy;
    for (size_t i = 0; i < kWords; ++i) copy[i] = payloads[place->slot][i].load(std::memory_order_relaxed);
    if (!map->Holds(*place)) {
      ++torn;
      continue;
    }
    ++read;
    for (const uint64_t word : copy) ASSERT_EQ(word, number);
  }
  stop = true;
  node.join();
  EXPECT_GT(read, 0u);
}

}  // namespace
}  // namespace stem
