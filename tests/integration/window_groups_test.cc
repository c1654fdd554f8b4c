// Hybrid models: every block's full-attention part, the window's part of the last blocks alone, and one recurrent state at the end.
#include <array>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 16384;
constexpr uint32_t kParts = 3;
constexpr uint32_t kFull = 0, kWindow = 1, kState = 2;  // index of the part
constexpr uint32_t kWindowBlocks = 3;                   // 40 tokens at 16 a block

NamespaceSpec HybridSpec() {
  NamespaceSpec spec = TestSpec(kBlockBytes);
  spec.parts.push_back({.id = 1, .group = GroupKind::kWindow, .window_tokens = 40, .layer_first = 8, .block_bytes = kBlockBytes});
  spec.parts.push_back({.id = 7, .group = GroupKind::kState, .layer_first = 16, .block_bytes = 4096});
  return spec;
}

std::byte ByteOf(uint32_t position, size_t offset) {
  return static_cast<std::byte>(position * 131 + offset * 7 + (offset >> 8));
}

constexpr std::array<uint32_t, kParts> kPartIds = {0, 1, 7};

// Publishes the parts at the indices `parts` of `count` blocks from `first` on; returns how many payloads were committed.
uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys, uint32_t first, uint32_t count,
                 const std::vector<uint32_t>& parts = {kFull, kWindow, kState}) {
  ReserveOptions options;
  if (first > 0) options.parent = keys[first - 1];
  for (const uint32_t part : parts) options.parts.push_back(kPartIds[part]);
  absl::StatusOr<Reservation> reservation = client.Reserve(std::span(keys).subspan(first, count), options, Soon());
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  if (!reservation.ok()) return 0;
  for (const WantedPayload& wanted : reservation->wanted()) {
    const auto asked = static_cast<uint32_t>(parts.size());
    const uint32_t position = (first + wanted.position / asked) * kParts + parts[wanted.position % asked];
    for (size_t i = 0; i < wanted.staging.size(); ++i) wanted.staging[i] = ByteOf(position, i);
  }
  const absl::StatusOr<CommitResult> committed = client.Commit(*std::move(reservation), Soon());
  EXPECT_TRUE(committed.ok()) << committed.status();
  return committed.ok() ? committed->committed : 0;
}

struct Fetched {
  uint32_t matched = 0;
  std::map<uint32_t, v1::Source> sources;  // of the positions that are needed; each was loaded and is what was published
  std::vector<MissRun> misses;
};

Fetched Fetch(CacheClient& client, const std::vector<BlockKey>& keys) {
  Fetched fetched;
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return fetched;
  fetched.matched = stem->matched_blocks();
  fetched.misses = stem->misses();
  for (uint32_t position = 0; position < fetched.matched * kParts; ++position) {
    const absl::StatusOr<View> view = client.Read(*stem, position, Soon());
    EXPECT_EQ(view.ok(), stem->needs(position)) << "position " << position << ": " << view.status();
    if (!view.ok()) {
      EXPECT_TRUE(absl::IsOutOfRange(view.status())) << view.status();
      continue;
    }
    bool equal = true;
    for (size_t i = 0; i < view->payload().size(); ++i) equal &= view->payload()[i] == ByteOf(position, i);
    EXPECT_TRUE(equal) << "position " << position;
    fetched.sources[position] = stem->source(position / kParts);
  }
  EXPECT_EQ(stem->landed_blocks(), stem->matched_blocks());
  return fetched;
}

// The positions that a reader of `blocks` blocks needs.
std::vector<uint32_t> Needed(uint32_t blocks) {
  std::vector<uint32_t> needed;
  for (uint32_t block = 0; block < blocks; ++block) {
    needed.push_back(block * kParts + kFull);
    if (block + kWindowBlocks >= blocks) needed.push_back(block * kParts + kWindow);
    if (block + 1 == blocks) needed.push_back(block * kParts + kState);
  }
  return needed;
}

std::vector<uint32_t> Positions(const Fetched& fetched) {
  std::vector<uint32_t> positions;
  for (const auto& [position, source] : fetched.sources) positions.push_back(position);
  return positions;
}

TEST(WindowGroupsTest, AReaderGetsItsWindowAndStateAndEveryFullPart) {
  for (const bool map_host_peers : {false, true}) {
    InProcessCluster cluster({.nodes = 2, .map_host_peers = map_host_peers});
    const auto writer = cluster.Connect(0, HybridSpec());
    const std::vector<BlockKey> keys = ChainOf(*writer, 10);
    EXPECT_EQ(Publish(*writer, keys, 0, 10), 30u);
    cluster.Settle();
    const auto reader = cluster.Connect(1, HybridSpec());
    for (const uint32_t blocks : {10u, 6u, 2u}) {
      const Fetched fetched = Fetch(*reader, ChainOf(*reader, blocks));
      EXPECT_EQ(fetched.matched, blocks);
      EXPECT_EQ(Positions(fetched), Needed(blocks));
    }
    const Fetched again = Fetch(*reader, keys);
    EXPECT_EQ(Positions(again), Needed(10));
    for (const auto& [position, source] : again.sources) EXPECT_EQ(source, v1::SOURCE_LOCAL_DRAM) << "read once, it is a copy here";
    const Fetched own = Fetch(*writer, keys);
    EXPECT_EQ(own.matched, 10u);
    EXPECT_EQ(Positions(own), Needed(10));
  }
}

TEST(WindowGroupsTest, AStemEndsWhereItsStateAndWindowAre) {
  InProcessCluster cluster({.nodes = 2});
  const auto writer = cluster.Connect(0, HybridSpec());
  const std::vector<BlockKey> keys = ChainOf(*writer, 12);
  // States of blocks 3 and 7, as engines keep few of them, and the windows before each; none at the chain's end.
  EXPECT_EQ(Publish(*writer, keys, 0, 12, {kFull}), 12u);
  EXPECT_EQ(Publish(*writer, keys, 1, 7, {kWindow}), 7u);
  EXPECT_EQ(Publish(*writer, keys, 3, 1, {kState}), 1u);
  EXPECT_EQ(Publish(*writer, keys, 7, 1, {kState}), 1u);
  cluster.Settle();
  const auto reader = cluster.Connect(1, HybridSpec());
  for (CacheClient* const client : {writer.get(), reader.get()}) {
    EXPECT_EQ(Fetch(*client, keys).matched, 8u);
    EXPECT_EQ(Fetch(*client, ChainOf(*client, 7)).matched, 4u);
    const Fetched none = Fetch(*client, ChainOf(*client, 3));
    EXPECT_EQ(none.matched, 0u);
    ASSERT_FALSE(none.misses.empty());
    uint32_t missed = 0;
    for (const MissRun& run : none.misses) missed += run.count;
    EXPECT_EQ(missed, 3u) << "every block has its cause";
  }
}

TEST(WindowGroupsTest, AConversationGoesOnWhereAnotherNodeLeftIt) {
  InProcessCluster cluster({.nodes = 2});
  const auto first = cluster.Connect(0, HybridSpec());
  const auto second = cluster.Connect(1, HybridSpec());
  const std::vector<BlockKey> keys = ChainOf(*first, 20);
  EXPECT_EQ(Publish(*first, keys, 0, 8), 24u);
  cluster.Settle();
  EXPECT_EQ(Fetch(*second, keys).matched, 8u);
  // The second turn on the second node: it holds but the window of the first.
  EXPECT_EQ(Publish(*second, keys, 8, 6), 18u);
  cluster.Settle();
  const Fetched third = Fetch(*first, keys);
  EXPECT_EQ(third.matched, 14u);
  EXPECT_EQ(Positions(third), Needed(14));
}

TEST(WindowGroupsTest, WhatWentToTheSsdComesBackAlsoAfterARestart) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 1 << 20, .ssd_bytes = 64 << 20});
  std::vector<BlockKey> keys;
  {
    const auto writer = cluster.Connect(0, HybridSpec());
    keys = ChainOf(*writer, 10);
    EXPECT_EQ(Publish(*writer, keys, 0, 10), 30u);
    for (uint32_t filler = 1; filler <= 6; ++filler) Publish(*writer, ChainOf(*writer, 10, filler * 1000), 0, 10);  // 480 KiB each
    const Fetched fetched = Fetch(*writer, keys);
    EXPECT_EQ(fetched.matched, 10u);
    EXPECT_EQ(Positions(fetched), Needed(10));
    EXPECT_EQ(fetched.sources.at(0), v1::SOURCE_LOCAL_SSD);
    for (uint32_t filler = 7; filler <= 12; ++filler) Publish(*writer, ChainOf(*writer, 10, filler * 1000), 0, 10);
  }
  cluster.StopNode(0);
  cluster.StartNode(0);
  const Fetched fetched = Fetch(*cluster.Connect(0, HybridSpec()), keys);
  EXPECT_EQ(fetched.matched, 10u);
  EXPECT_EQ(Positions(fetched), Needed(10));
}

TEST(WindowGroupsTest, WhoAsksForFewerPartsGetsTheirStem) {
  InProcessCluster cluster({.nodes = 1});
  const auto writer = cluster.Connect(0, HybridSpec());
  const std::vector<BlockKey> keys = ChainOf(*writer, 8);
  EXPECT_EQ(Publish(*writer, keys, 0, 8), 24u);
  // Asked without the state, the stem ends where full part and window do.
  const std::vector<BlockKey> longer = ChainOf(*writer, 9);
  EXPECT_EQ(Publish(*writer, longer, 8, 1, {kFull, kWindow}), 2u);
  EXPECT_EQ(Fetch(*writer, longer).matched, 8u);
  absl::StatusOr<Stem> stem = writer->Acquire(longer, {.parts = {0, 1}}, Soon());
  ASSERT_TRUE(stem.ok());
  EXPECT_EQ(stem->matched_blocks(), 9u);
}

}  // namespace
}  // namespace stem
