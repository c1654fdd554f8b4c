// The stems that most requests go through: found among many, where chains part, forgotten as they cool.
#include "services/node/records/hot_stems.h"

#include <algorithm>
#include <random>
#include <set>

#include "gtest/gtest.h"

namespace stem {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1'000'000);
const NamespaceFingerprint kSpace{{.low = 11, .high = 12}};

// A chain of `blocks` that follows `stem` and is told apart by `salt`.
std::vector<BlockKey> Chain(std::vector<BlockKey> stem, uint64_t salt, size_t blocks) {
  std::mt19937_64 random(salt);
  for (size_t i = 0; i < blocks; ++i) {
    BlockKey key;
    key.low = random();
    key.high = random();
    stem.push_back(key);
  }
  return stem;
}

TEST(HotStems, SharedSystemPromptIsFoundWhereChainsPart) {
  HotStems stems((HotStems::Options()));
  const std::vector<BlockKey> system = Chain({}, 1, 37);
  for (uint64_t user = 0; user < 200; ++user) {
    stems.Request(kSpace, Chain(system, 1000 + user, 20), user % 2 == 0 ? 37 : 0, kStart + absl::Milliseconds(user));
  }
  const std::vector<HotStems::Stem> hottest = stems.Read(10, std::nullopt, kStart + absl::Milliseconds(200));
  ASSERT_FALSE(hottest.empty());
  EXPECT_EQ(hottest[0].blocks, 37u);
  EXPECT_EQ(hottest[0].key, system.back());
  EXPECT_GE(hottest[0].requests, 195u);
  EXPECT_NEAR(hottest[0].hit_fraction, 0.5, 0.02);
  EXPECT_NEAR(hottest[0].requests_per_minute, 200 * 0.6931, 4);  // at once: as a minute's half-life counts them
  for (size_t i = 1; i < hottest.size(); ++i) EXPECT_LE(hottest[i].requests, 2u) << "one of a single user";
}

TEST(HotStems, TreeHasParents) {
  HotStems stems((HotStems::Options()));
  const std::vector<BlockKey> system = Chain({}, 1, 20);
  const std::vector<BlockKey> documents[] = {Chain(system, 2, 60), Chain(system, 3, 60)};
  for (uint64_t i = 0; i < 900; ++i) {
    stems.Request(kSpace, Chain(documents[i % 3 == 0 ? 1 : 0], 1000 + i, 10), 0, kStart);
  }
  const std::vector<HotStems::Stem> hottest = stems.Read(3, std::nullopt, kStart);
  ASSERT_EQ(hottest.size(), 3u);
  EXPECT_EQ(hottest[0].blocks, 20u);
  EXPECT_EQ(hottest[0].key, system.back());
  EXPECT_FALSE(hottest[0].parent.has_value());
  EXPECT_EQ(hottest[1].key, documents[0].back());
  EXPECT_EQ(hottest[2].key, documents[1].back());
  EXPECT_EQ(hottest[1].parent, system.back());
  EXPECT_EQ(hottest[2].parent, system.back());
  const std::vector<HotStems::Stem> below = stems.Read(100, system.back(), kStart);
  ASSERT_GE(below.size(), 2u);
  EXPECT_EQ(below[0].key, documents[0].back());
  for (const HotStems::Stem& stem : below) EXPECT_GT(stem.blocks, 20u);
}

TEST(HotStems, HottestAreFoundAmongFarMoreThanFit) {
  HotStems stems({.stems_max = 512});
  std::mt19937_64 random(7);
  constexpr size_t kPrompts = 5000;
  std::vector<double> weights;
  for (size_t i = 1; i <= kPrompts; ++i) weights.push_back(1.0 / static_cast<double>(i));  // Zipf
  std::discrete_distribution<size_t> zipf(weights.begin(), weights.end());
  for (int i = 0; i < 50'000; ++i) {
    stems.Request(kSpace, Chain({}, zipf(random), 8), 8, kStart + absl::Milliseconds(i));
  }
  std::set<std::string> hottest;
  for (const HotStems::Stem& stem : stems.Read(20, std::nullopt, kStart + absl::Seconds(50))) hottest.insert(stem.key.ToHex());
  for (uint64_t prompt = 0; prompt < 15; ++prompt) EXPECT_TRUE(hottest.contains(Chain({}, prompt, 8).back().ToHex())) << prompt;
}

TEST(HotStems, RatesDecayAndNewTrafficLeads) {
  HotStems stems((HotStems::Options()));
  for (int i = 0; i < 1000; ++i) stems.Request(kSpace, Chain({}, 1, 4), 4, kStart + absl::Milliseconds(i));
  const absl::Time later = kStart + absl::Minutes(10);
  for (int i = 0; i < 10; ++i) stems.Request(kSpace, Chain({}, 2, 4), 4, later);
  const std::vector<HotStems::Stem> hottest = stems.Read(2, std::nullopt, later);
  ASSERT_EQ(hottest.size(), 2u);
  EXPECT_EQ(hottest[0].key, Chain({}, 2, 4).back());
  EXPECT_NEAR(hottest[1].requests_per_minute, 1000 * 0.6931 / 1024, 0.05);
  EXPECT_EQ(hottest[1].requests, 1000u);
  EXPECT_GE(hottest[1].last_asked_ago, absl::Minutes(9));
  // Long after, weights that were scaled anew still compare.
  const absl::Time much_later = kStart + absl::Hours(24);
  stems.Request(kSpace, Chain({}, 3, 4), 0, much_later);
  EXPECT_EQ(stems.Read(1, std::nullopt, much_later)[0].key, Chain({}, 3, 4).back());
  EXPECT_NEAR(stems.Read(1, std::nullopt, much_later)[0].requests_per_minute, 0.6931, 0.01);
}

TEST(HotStems, OtherNamespacesAreOtherStems) {
  HotStems stems((HotStems::Options()));
  const NamespaceFingerprint other{{.low = 21, .high = 22}};
  stems.Request(kSpace, Chain({}, 1, 4), 4, kStart);
  stems.Request(other, Chain({}, 1, 4), 0, kStart);
  const std::vector<HotStems::Stem> hottest = stems.Read(10, std::nullopt, kStart);
  ASSERT_EQ(hottest.size(), 2u);
  EXPECT_NE(hottest[0].space, hottest[1].space);
}

}  // namespace
}  // namespace stem
