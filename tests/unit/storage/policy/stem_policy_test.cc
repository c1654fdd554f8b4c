// What `stem` is made of: the learned model, the stories of blocks, the shadows; and that together they learn what to keep.
#include "storage/policy/stem_policy.h"

#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "storage/policy/block_history.h"
#include "storage/policy/policies.h"
#include "storage/policy/reuse_model.h"
#include "storage/policy/reuse_rank.h"
#include "storage/policy/shadow_tier.h"
#include "tests/support/policy_driver.h"

namespace stem {
namespace {

using Keys = std::vector<uint64_t>;

std::vector<BlockInfo> Chain(const Keys& keys, uint64_t request) {
  std::vector<BlockInfo> chain;
  for (const uint64_t key : keys) {
    chain.push_back({.key = key, .depth = static_cast<uint32_t>(chain.size()), .request = request});
  }
  return chain;
}

TEST(ReuseModelTest, ClassThatComesBackAtACertainAgeRanksHighestJustBeforeIt) {
  ReuseModel model(1 << 14, {0, 0, 1});
  std::vector<uint64_t> samples;
  for (uint64_t i = 0; i < 30000; ++i) {
    model.Advance();
    if (i >= 1000 && i % 2 == 0) model.UsedAgain(samples[i - 1000]);  // class 0: after 1000 uses
    model.Use();
    samples.push_back(model.Sample(i % 2 == 0 ? 0 : 2));              // class 2: never
  }
  model.Refresh();
  const uint32_t fresh = model.BinOf(0), before = model.BinOf(900), after = model.BinOf(5000);
  EXPECT_GT(model.rank(0, fresh), 10 * model.rank(2, fresh)) << "the hill is seen from afar";
  EXPECT_GT(model.rank(0, before), model.rank(0, fresh));
  EXPECT_LT(model.rank(0, after), model.rank(0, fresh));
  EXPECT_GT(model.chance(0, fresh), 0.9F);
  EXPECT_LT(model.chance(2, fresh), 0.1F);
  EXPECT_NEAR(model.rank(1, fresh), model.rank(0, fresh), 0.1 * model.rank(0, fresh)) << "unknown, so taken for its family";
  EXPECT_LT(model.place(static_cast<uint32_t>(2 * model.bins()) + fresh), model.place(fresh));
}

TEST(ReuseModelTest, UntaughtRanksAsLruDoes) {
  const ReuseModel model(1 << 14, {0});
  for (uint32_t bin = 1; bin < model.bins(); ++bin) EXPECT_LT(model.rank(0, bin), model.rank(0, bin - 1)) << bin;
}

TEST(ReuseModelTest, AgesFallIntoTheirBins) {
  const ReuseModel model(1 << 14, {0});
  for (uint64_t age = 0; age < 1 << 14; ++age) {
    const uint32_t bin = model.BinOf(age);
    ASSERT_GE(age, model.BinStart(bin));
    ASSERT_TRUE(bin + 1 == model.bins() || age < model.BinStart(bin + 1)) << age;
  }
}

TEST(BlockHistoryTest, PromptThatExtendsTheLastIsTheNextTurn) {
  BlockHistory history(1 << 12);
  history.Use(Chain({1, 2, 3, 90}, 1));  // 90: a partial block
  history.Use(Chain({1, 2, 7, 8, 91}, 2));
  history.Use(Chain({1, 2, 3, 4, 5, 92}, 3));
  EXPECT_EQ(history.Find(5)->turn, 1u) << "goes on with request 1";
  EXPECT_EQ(history.Find(8)->turn, 0u) << "another conversation with the same beginning";
  EXPECT_EQ(history.Find(1)->uses, 3u);
  history.Use(Chain({1, 2, 3, 4, 5, 6}, 4));
  EXPECT_EQ(history.Find(6)->turn, 2u);
  EXPECT_NE(history.Find(1)->cls, history.Find(4)->cls) << "shared, and not";
}

std::vector<BlockInfo> Told(const Keys& keys, uint64_t request, Conversation conversation) {
  std::vector<BlockInfo> chain = Chain(keys, request);
  for (BlockInfo& info : chain) info.conversation = conversation;
  return chain;
}

TEST(BlockHistoryTest, ToldConversationsAreNotGuessed) {
  BlockHistory history(1 << 12);
  history.Use(Told({1, 2, 3, 4, 5, 6}, 1, {.id = 7}));
  history.Use(Told({1, 2, 3, 20}, 2, {.id = 7}));  // an answer was edited: another prompt, but the same conversation
  EXPECT_EQ(history.Find(20)->turn, 1u);
  history.Use(Told({1, 2, 3, 20, 30}, 3, {.id = 8}));  // a copy of the conversation
  EXPECT_EQ(history.Find(30)->turn, 0u);
}

// Another node leases the blocks, or their last reader lets go of them: nobody says for whom.
TEST(BlockHistoryTest, AUseOfNobodyKnownLeavesTheConversationThatWasTold) {
  BlockHistory history(1 << 12);
  history.Use(Told({11, 12}, 1, {.id = 8, .outlook = Outlook::kWillResume}));
  history.Use(Chain({11, 12}, 2));
  history.Use(Told({11, 12, 13}, 3, {.id = 8, .outlook = Outlook::kWillResume}));
  EXPECT_EQ(history.Find(13)->turn, 2u) << "it goes on";
  EXPECT_FALSE(BlockHistory::IsShared(history.Find(12)->cls));
  history.Use(Chain({11, 12, 13}, 4));
  history.EndConversation(8);
  const BlockHistory::Story& story = *history.Find(13);
  EXPECT_NE(history.ClassNow(story.cls, story.conversation), story.cls) << "it is known whose it was";
}

TEST(GhostCountsTest, WhatWasTakenIsForgottenHoweverOftenItWasPut) {
  GhostCounts ghosts(4);
  ghosts.Put(1, 5);
  ghosts.Put(2, 1);
  ghosts.Put(3, 1);  // more than half: the three are the older generation now
  ghosts.Put(1, 6);
  EXPECT_EQ(ghosts.Take(1), 6u);
  EXPECT_EQ(ghosts.Take(1), 0u);
  EXPECT_EQ(ghosts.Count(2), 1u);
}

TEST(BlockHistoryTest, NothingIsExpectedOfWhatHasEndedUntilItComesBack) {
  BlockHistory history(1 << 12);
  for (uint64_t i = 0; i < 200; ++i) {
    history.Use(Told({1, 2, 100 * i + 100, 100 * i + 101}, 2 * i, {.id = i + 1, .outlook = Outlook::kWillResume}));
    history.Use(Told({1, 2, 100 * i + 100, 100 * i + 101, 100 * i + 102}, 2 * i + 1, {.id = i + 1, .outlook = Outlook::kEnded}));
  }
  history.Refresh();
  const auto chance = [&](uint64_t key) { return history.Chance(*history.Find(key)); };
  EXPECT_LT(chance(100 * 199 + 101), 0.05F) << "ended, as it was told";
  EXPECT_GT(chance(2), 0.9F) << "what others use too does not end";
  history.Use(Told({1, 2, 90'000, 90'001}, 1000, {.id = 900, .outlook = Outlook::kWillResume}));
  EXPECT_GT(chance(90'001), 0.5F) << "those that will resume do";
  history.EndConversation(900);
  EXPECT_LT(chance(90'001), 0.05F);
  history.Use(Told({1, 2, 90'000, 90'001}, 1001, {.id = 900, .outlook = Outlook::kWillResume}));
  EXPECT_GT(chance(90'001), 0.5F) << "the engine was wrong";
}

TEST(BlockHistoryTest, ForgetsBeyondTheHorizon) {
  BlockHistory history(64);
  history.Use(Chain({1}, 1));
  for (uint64_t i = 2; i < 50; ++i) history.Use(Chain({i}, i));
  EXPECT_NE(history.Find(1), nullptr);
  for (uint64_t i = 50; i < 100; ++i) history.Use(Chain({i}, i));
  EXPECT_EQ(history.Find(1), nullptr);
}

TEST(ShadowTierTest, CountsTheLeadingRunThatItHolds) {
  ShadowTier shadow(MakeLeafFirstPolicy(PolicyKind::kLru, 4), 4);
  EXPECT_EQ(shadow.Request(Chain({1, 2, 3}, 1)), 0u);
  EXPECT_EQ(shadow.Request(Chain({1, 2, 3, 4}, 2)), 3u);
  EXPECT_EQ(shadow.Request(Chain({8, 9}, 3)), 0u) << "takes the room of 4 and 3";
  EXPECT_EQ(shadow.Request(Chain({1, 2, 3, 4}, 4)), 2u);
}

class Tier {
 public:
  Tier(PolicyKind kind, size_t capacity) : tier_(MakeLeafFirstPolicy(kind, capacity), capacity) {}
  void Request(const Keys& keys) {
    for (const uint64_t key : keys) {
      if (!tier_.holds(key)) break;
      ++hits_;
    }
    tier_.Request(keys);
  }
  uint64_t hits() const { return hits_; }

 private:
  PolicyDriver tier_;
  uint64_t hits_ = 0;
};

// Prompts of one kind come back after a while, those of the other never: which, shows only in their length.
TEST(StemPolicyTest, InATinyTierWhatEachRequestUsesStays) {
  for (const size_t capacity : {58u, 100u, 300u}) {
    PolicyDriver tier(MakePolicy(PolicyKind::kStem, capacity), capacity);
    const Keys kept = {1, 2, 3, 4, 5, 6, 7, 8};
    for (uint64_t round = 1; round <= 100; ++round) {
      tier.Request(kept);
      const auto first = 1000 * round;
      tier.Request({first, first + 1, first + 2, first + 3, first + 4, first + 5, first + 6, first + 7});
      for (const uint64_t key : kept) ASSERT_TRUE(tier.holds(key)) << key << " of " << capacity << " after " << round;
    }
  }
}

TEST(StemPolicyTest, LearnsWhichPromptsComeBack) {
  Tier stem(PolicyKind::kStem, 200), lru(PolicyKind::kLru, 200);
  for (uint64_t i = 0; i < 2500; ++i) {
    const uint64_t base = 1000 + 100 * i;
    Keys once, twice = {base, base + 1, base + 2}, again = {base - 1200, base - 1199, base - 1198, base + 9};
    for (uint64_t j = 20; j < 60; ++j) once.push_back(base + j);
    for (Tier* tier : {&stem, &lru}) {
      tier->Request(once);
      tier->Request(twice);
      if (i >= 12) tier->Request(again);
    }
  }
  EXPECT_EQ(lru.hits(), 0u) << "twelve long prompts lie between";
  EXPECT_GT(stem.hits(), 2500u * 3 * 7 / 10);
}

// Two conversations, the later one copied by another node: which leaves first?
TEST(ReuseRankTest, WhatMovedToAnotherNodeIsCheaperToLose) {
  for (const bool copied : {false, true}) {
    BlockHistory history(1 << 12);
    ReuseRank rank(history);
    std::vector<BlockInfo> first = Chain({1, 2}, 1), second = Chain({11, 12}, 2);
    second[0].copied = second[1].copied = copied;
    BlockId id = 0;
    for (auto* chain : {&first, &second}) {
      (*chain)[1].parent = id;
      history.Use(*chain);
      for (const BlockInfo& info : *chain) rank.Admit(id++, info);
    }
    EXPECT_EQ(rank.Victim(), copied ? BlockId{3} : BlockId{1});
    rank.Touch(3, Chain({11, 12}, 3)[1]);
    EXPECT_EQ(rank.Victim(), BlockId{1}) << "used here again, it is worth as much as others";
  }
}

// Single blocks of fixed popularity: nothing beats counting, and stem must see that it does not.
TEST(StemPolicyTest, FollowsLfuWhereCountingIsBest) {
  Tier stem(PolicyKind::kStem, 300), lfu(PolicyKind::kLfu, 300);
  std::mt19937_64 random(7);
  for (int i = 0; i < 60000; ++i) {
    const double u = static_cast<double>(random() >> 11) * 0x1.0p-53;
    const auto key = static_cast<uint64_t>(20'000 * u * u * u);
    stem.Request({key});
    lfu.Request({key});
  }
  EXPECT_GT(static_cast<double>(stem.hits()), 0.98 * static_cast<double>(lfu.hits()));
}

}  // namespace
}  // namespace stem
