// Several directories over several nodes: they come and go while everything runs.
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

constexpr uint64_t kBlockBytes = 4096;

absl::Time Soon() { return absl::Now() + absl::Seconds(20); }

std::vector<BlockKey> Chain(const CacheClient& client, uint32_t blocks, uint32_t first_token = 1) {
  std::vector<uint32_t> tokens(16 * blocks);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = first_token + static_cast<uint32_t>(i);
  ChainHasher hasher = *client.NewHasher();
  std::vector<BlockKey> keys;
  EXPECT_TRUE(hasher.AppendTokens(tokens, keys).ok());
  return keys;
}

uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys) {
  absl::StatusOr<Reservation> reservation = client.Reserve(keys, {}, Soon());
  EXPECT_TRUE(reservation.ok()) << reservation.status();
  if (!reservation.ok() || reservation->wanted().empty()) return 0;
  for (const WantedPayload& wanted : reservation->wanted()) {
    std::fill(wanted.staging.begin(), wanted.staging.end(), static_cast<std::byte>(wanted.position));
  }
  const absl::StatusOr<CommitResult> result = client.Commit(*std::move(reservation), Soon());
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->committed : 0;
}

// Blocks that were loaded and are right.
uint32_t Fetch(CacheClient& client, const std::vector<BlockKey>& keys) {
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return 0;
  std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
  const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
  const LoadResult result = client.Load(*stem, 0, destinations, Soon());
  for (uint32_t block = 0; block < result.blocks_loaded; ++block) {
    EXPECT_THAT(memory[block], ::testing::Each(static_cast<std::byte>(block)));
  }
  return result.blocks_loaded;
}

std::vector<std::string> StreamsOf(const Node& node) {
  std::vector<std::string> streams;
  const v1::NodeStatusReply status = node.Status();
  for (const auto& stream : status.streams()) streams.push_back(stream.directory());
  return streams;
}

TEST(FleetTest, DirectoriesComeAndGoWhileNodesRun) {
  InProcessCluster cluster({.nodes = 2, .directories = 2});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const std::vector<BlockKey> first = Chain(*writer, 8);
  EXPECT_EQ(Publish(*writer, first), 8u);
  cluster.Settle();

  // Both are replaced by a new one, which learns all by snapshot.
  const std::vector<std::string> old = cluster.directory_addresses();
  EXPECT_THAT(StreamsOf(cluster.node(0)), UnorderedElementsAreArray(old));
  cluster.StopDirectory(0);
  cluster.StartDirectory(0);
  const std::string fresh = cluster.directory_address(0);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(cluster.node(i).SetDirectories({fresh}).ok());
    EXPECT_THAT(StreamsOf(cluster.node(i)), ElementsAre(fresh));
  }
  cluster.StopDirectory(1);
  cluster.Settle();
  EXPECT_EQ(Fetch(*reader, first), 8u);
  const std::vector<BlockKey> second = Chain(*writer, 8, 9000);
  EXPECT_EQ(Publish(*writer, second), 8u);
  cluster.Settle();
  EXPECT_EQ(Fetch(*reader, second), 8u) << "and changes go on to it";

  const absl::Status refused = cluster.node(0).SetDirectories({fresh, "nonsense"});
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(StreamsOf(cluster.node(0)), ElementsAre(fresh)) << "a bad list changes nothing";
  ASSERT_TRUE(cluster.node(0).SetDirectories({}).ok());
  EXPECT_TRUE(StreamsOf(cluster.node(0)).empty());
  EXPECT_EQ(Fetch(*writer, first), 8u) << "without directories a node has its own blocks";
}

}  // namespace
}  // namespace stem
