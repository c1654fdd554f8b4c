#include "services/directory/chain_match.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "tests/support/announce.h"
#include "tests/support/index_lookup.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

template <typename Runs>
std::string Text(const Runs& runs, const MemberView& view) {
  std::string text;
  for (const ChainRun& run : runs) {
    text += std::to_string(run.first) + "+" + std::to_string(run.count) + ":" + view.nodes[run.node].address->node() +
            (run.tier == v1::TIER_SSD ? "/ssd " : run.tier == v1::TIER_GPU ? "/gpu " : "/dram ");
  }
  return text;
}

template <typename Misses>
std::string Text(const Misses& misses) {
  std::string text;
  for (const ChainMiss& miss : misses) {
    text += std::to_string(miss.first) + "+" + std::to_string(miss.count) + ":" + v1::MissCause_Name(miss.cause).substr(11) + " ";
  }
  return text;
}

class ChainMatchTest : public ::testing::Test {
 protected:
  // Node i of the view is named 'a' + i and has one slot that counts.
  void AddNode(const std::string& name) {
    v1::NodeAddress address;
    address.set_node(name);
    view_.nodes.push_back({.address = std::make_shared<const v1::NodeAddress>(address), .host = static_cast<uint32_t>(view_.nodes.size())});
    slots_[name] = *index_.OpenSlot();
    view_.slots.resize(slots_[name].slot + size_t{1});
    view_.slots[slots_[name].slot] = {.use = MemberView::Use::kCounts, .node = static_cast<uint16_t>(view_.nodes.size() - 1)};
  }
  void SetUp() override {
    for (const char* name : {"a", "b", "c"}) AddNode(name);
    view_.history_whole = true;
  }
  void Hold(const std::string& node, uint64_t first, uint64_t count, v1::Tier tier = v1::TIER_DRAM, uint32_t part = 0) {
    for (const BlockKey& key : KeysOf(first, count)) AddBlock(index_, slots_[node], Name(key, part), tier);
  }
  void Evict(const std::string& node, uint64_t key, v1::MissCause cause, uint32_t part = 0) {
    RemoveBlock(index_, slots_[node], Name(KeyOf(key), part), cause);
  }
  uint64_t Name(const BlockKey& key, uint32_t part) const {
    return IndexedAs({.space = space_, .key = PartKey(key, part)});
  }
  ChainMatch Match(uint64_t count, const std::vector<uint32_t>& ids = {0}, const std::string& requester = "") {
    std::vector<WantedPart> parts;
    for (const uint32_t id : ids) parts.push_back({.id = id});
    return MatchChain(index_, view_, {.space = space_, .keys = KeysOf(0, count), .parts = parts, .requester = requester});
  }

  const NamespaceFingerprint space_ = SpaceOf(1);
  PrefixIndex index_{{.bytes_max = 64 << 20, .ghosts_max = 1 << 16}};
  MemberView view_;
  std::map<std::string, SlotHandle> slots_;
};

TEST_F(ChainMatchTest, HolderThatReachesFarthestIsChosenAndKept) {
  Hold("a", 0, 3);
  Hold("b", 0, 5);
  Hold("c", 3, 4);
  const ChainMatch match = Match(8);
  EXPECT_EQ(match.matched_blocks, 7u);
  EXPECT_EQ(Text(match.runs, view_), "0+5:b/dram 5+2:c/dram ");
  EXPECT_EQ(Text(match.misses), "7+1:COLD ");
}

TEST_F(ChainMatchTest, PoolBeatsSsdWhereOneMustBeChosen) {
  Hold("a", 0, 6, v1::TIER_SSD);
  Hold("b", 0, 2, v1::TIER_DRAM);
  EXPECT_EQ(Text(Match(6).runs, view_), "0+2:b/dram 2+4:a/ssd ");
}

TEST_F(ChainMatchTest, HolderIsKeptWhenItsTierChanges) {
  Hold("a", 0, 2);
  Hold("a", 2, 2, v1::TIER_SSD);
  Hold("b", 2, 2);
  EXPECT_EQ(Text(Match(4).runs, view_), "0+2:a/dram 2+2:a/ssd ");
}

TEST_F(ChainMatchTest, RequesterIsNeverNamed) {
  Hold("a", 0, 4);
  Hold("b", 0, 2);
  const ChainMatch match = Match(4, {0}, "a");
  EXPECT_EQ(match.matched_blocks, 2u);
  EXPECT_EQ(Text(match.runs, view_), "0+2:b/dram ");
  EXPECT_EQ(Text(match.misses), "2+1:UNKNOWN 3+1:UNREACHABLE ");
}

TEST_F(ChainMatchTest, HeldBehindTheFirstMissingIsUnreachable) {
  Hold("a", 0, 2);
  Hold("b", 3, 1);
  Hold("a", 4, 1);
  Evict("a", 4, v1::MISS_CAUSE_EVICTED);
  const ChainMatch match = Match(6);
  EXPECT_EQ(match.matched_blocks, 2u);
  EXPECT_EQ(Text(match.misses), "2+1:COLD 3+1:UNREACHABLE 4+1:EVICTED 5+1:COLD ");
}

TEST_F(ChainMatchTest, WithoutWholeHistoryAbsenceIsUnknownButGhostsStillSpeak) {
  view_.history_whole = false;
  Hold("a", 1, 1);
  Evict("a", 1, v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(Text(Match(3).misses), "0+1:UNKNOWN 1+1:SPILL_REJECTED 2+1:UNKNOWN ");
}

TEST_F(ChainMatchTest, AllPartsComeFromOneHolder) {
  Hold("a", 0, 3, v1::TIER_DRAM, 0);
  Hold("a", 0, 2, v1::TIER_SSD, 1);
  Hold("b", 0, 1, v1::TIER_DRAM, 0);
  Hold("b", 0, 3, v1::TIER_DRAM, 1);
  const ChainMatch match = Match(3, {0, 1});
  EXPECT_EQ(match.matched_blocks, 2u);
  EXPECT_EQ(Text(match.runs, view_), "0+1:b/dram 1+1:a/ssd ") << "a run's tier is its slowest part's";
  EXPECT_EQ(Text(match.misses), "2+1:UNREACHABLE ") << "both parts are held, but by no one together";
}

TEST_F(ChainMatchTest, CauseOfAMissingPartIsTheFirstThatFits) {
  Hold("a", 0, 1, v1::TIER_DRAM, 0);
  Hold("a", 0, 1, v1::TIER_DRAM, 1);
  Evict("a", 0, v1::MISS_CAUSE_EVICTED, 0);
  Evict("a", 0, v1::MISS_CAUSE_INTEGRITY, 1);
  EXPECT_EQ(Text(Match(1, {0, 1}).misses), "0+1:INTEGRITY ");
  EXPECT_EQ(Text(Match(1, {0, 2}).misses), "0+1:EVICTED ") << "evicted comes before cold";
}

TEST_F(ChainMatchTest, SlotsThatDoNotCountAreMissesThatSayWhy) {
  Hold("a", 0, 1);
  Hold("b", 1, 1);
  view_.slots[slots_["a"].slot].use = MemberView::Use::kLost;
  view_.slots[slots_["b"].slot].use = MemberView::Use::kUncertain;
  EXPECT_EQ(Text(Match(2).misses), "0+1:NODE_LOST 1+1:UNKNOWN ");
  Hold("b", 0, 1);
  EXPECT_EQ(Text(Match(1).misses), "0+1:UNKNOWN ");
}

TEST_F(ChainMatchTest, OtherNamespaceSeesNothing) {
  Hold("a", 0, 3);
  const ChainMatch match = MatchChain(index_, view_, {.space = SpaceOf(2), .keys = KeysOf(0, 3), .parts = {{.id = 0}}, .requester = ""});
  EXPECT_EQ(match.matched_blocks, 0u);
}

TEST_F(ChainMatchTest, EqualHoldersShareTheChains) {
  for (uint64_t key = 0; key < 64; ++key) {
    Hold("a", key, 1);
    Hold("b", key, 1);
  }
  std::map<uint16_t, int> chosen;
  for (uint64_t key = 0; key < 64; ++key) {
    const ChainMatch match = MatchChain(index_, view_, {.space = space_, .keys = KeysOf(key, 1), .parts = {{.id = 0}}, .requester = ""});
    ++chosen[match.runs[0].node];
  }
  EXPECT_GT(chosen[0], 16);
  EXPECT_GT(chosen[1], 16);
}

TEST_F(ChainMatchTest, ScoreIsEachNodesOwnLeadingRun) {
  Hold("a", 0, 2);
  Hold("a", 2, 1, v1::TIER_SSD);
  Hold("b", 1, 5);
  Hold("c", 0, 1, v1::TIER_GPU);
  const auto scores = ScoreChain(index_, view_, {.space = space_, .keys = KeysOf(0, 6), .parts = {{.id = 0}}, .requester = ""});
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_EQ(scores[0].matched_blocks, 3u);
  EXPECT_EQ(scores[0].pool_blocks, 2u);
  EXPECT_EQ(scores[0].ssd_blocks, 1u);
  EXPECT_EQ(scores[1].matched_blocks, 0u);
  EXPECT_EQ(scores[2].matched_blocks, 1u);
  EXPECT_EQ(scores[2].pool_blocks, 1u);
}

}  // namespace
}  // namespace stem
