#include "storage/spill/page_map.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace stem {
namespace {

TEST(PageMap, SpaceIsGivenOutInARing) {
  PageMap map;
  map.Resize(100);
  EXPECT_EQ(map.Take(40), (Extent{0, 40}));
  EXPECT_EQ(map.Take(40), (Extent{40, 40}));
  map.Release({0, 40});
  EXPECT_EQ(map.Take(20), (Extent{80, 20})) << "on from where the last ended, not back to the first hole";
  EXPECT_EQ(map.Take(30), (Extent{0, 30}));
  EXPECT_EQ(map.Take(30), std::nullopt);
  EXPECT_EQ(map.free_pages(), 10u);
}

TEST(PageMap, LivingRecordsAreSteppedOver) {
  PageMap map;
  map.Resize(64);
  for (uint32_t i = 0; i < 8; ++i) EXPECT_EQ(map.Take(8), (Extent{i * 8, 8}));
  map.Release({0, 8});
  map.Release({16, 8});
  map.Release({24, 8});
  EXPECT_EQ(map.Take(16), (Extent{16, 16}));
  EXPECT_EQ(map.Take(8), (Extent{0, 8}));
}

TEST(PageMap, HolesOnBothSidesOfTheCursorAreOneHole) {
  PageMap map;
  map.Resize(64);
  EXPECT_EQ(map.Take(32), (Extent{0, 32}));
  EXPECT_EQ(map.Take(32), (Extent{32, 32}));
  map.Release({0, 32});
  EXPECT_EQ(map.Take(16), (Extent{0, 16}));
  map.Release({0, 16});  // the cursor stands at 16, in the middle of 32 free pages
  EXPECT_EQ(map.Take(32), (Extent{0, 32}));
}

TEST(PageMap, WhatFitsNoHoleIsCutIntoFewLargePieces) {
  PageMap map;
  map.Resize(256);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(map.Take(32).has_value());
  map.Release({32, 32});
  map.Release({96, 32});
  map.Release({200, 1});
  EXPECT_EQ(map.Take(64), std::nullopt);
  const std::optional<Extents> pieces = map.TakePieces(64);
  ASSERT_TRUE(pieces.has_value());
  EXPECT_EQ(pieces->size(), 2u);
  EXPECT_EQ(map.free_pages(), 1u);
}

TEST(PageMap, RecordsThatOverlapOrLieBehindTheEndAreNotMarked) {
  PageMap map;
  map.Resize(100);
  EXPECT_TRUE(map.Mark({10, 10}));
  EXPECT_FALSE(map.Mark({19, 2}));
  EXPECT_FALSE(map.Mark({5, 90}));
  EXPECT_FALSE(map.Mark({95, 6}));
  EXPECT_TRUE(map.Mark({95, 5}));
  EXPECT_EQ(map.free_pages(), 85u);
  EXPECT_EQ(map.end(), 100u);
  map.Release({95, 5});
  EXPECT_EQ(map.end(), 20u);
  map.Resize(20);
  EXPECT_EQ(map.free_pages(), 10u);
}

// Against one bool a page.
TEST(PageMap, NothingIsGivenTwiceWhateverTheOrder) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    std::mt19937_64 random(seed);
    const uint64_t pages = 100 + random() % 2000;
    PageMap map;
    map.Resize(pages);
    std::vector<bool> taken(pages, false);
    std::vector<Extents> held;
    uint64_t taken_pages = 0;
    const auto set = [&](const Extents& extents, bool value) {
      for (const Extent& extent : extents) {
        for (uint64_t page = extent.page; page < extent.page + extent.pages; ++page) {
          ASSERT_EQ(taken[page], !value) << "seed " << seed;
          taken[page] = value;
          taken_pages += value ? 1 : -1;
        }
      }
    };
    for (int step = 0; step < 2000; ++step) {
      const auto wanted = static_cast<uint32_t>(1 + random() % 70);
      if (random() % 2 == 0 && !held.empty()) {
        const size_t victim = random() % held.size();
        set(held[victim], false);
        for (const Extent& extent : held[victim]) map.Release(extent);
        held[victim] = held.back();
        held.pop_back();
      } else if (const std::optional<Extent> extent = map.Take(wanted)) {
        ASSERT_EQ(extent->pages, wanted);
        held.push_back({*extent});
        set(held.back(), true);
      } else if (map.free_pages() >= wanted) {
        const std::optional<Extents> pieces = map.TakePieces(wanted);
        ASSERT_TRUE(pieces.has_value());
        held.push_back(*pieces);
        set(held.back(), true);
      } else {
        // Refused for a reason: there is no such run.
        uint64_t run = 0;
        for (uint64_t page = 0; page < pages; ++page) {
          run = taken[page] ? 0 : run + 1;
          ASSERT_LT(run, wanted) << "seed " << seed;
        }
      }
      ASSERT_EQ(map.free_pages(), pages - taken_pages) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace stem
