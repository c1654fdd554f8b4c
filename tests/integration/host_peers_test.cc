// Nodes of one host read each other's arenas in place: over leases, only when they know the cluster's secret, and for no longer than
// the other node lives.
#include <sys/mman.h>

#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "storage/pool/fd_socket.h"
#include "tests/support/arena_maps.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"
#include "tests/support/scraped_metrics.h"

namespace stem {
namespace {

using ::stem::testing::ArenasMapped;
using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 65536;

// Payload bytes that the node moved on `path`, as its metrics say.
double BytesMoved(const Node& node, const std::string& path) {
  return testing::ScrapedMetrics(node.http_address()).Value("stemcache_node_bytes_total{path=\"" + path + "\"}");
}

// Fetches the chain and checks every byte.
uint32_t Fetch(CacheClient& client, const std::vector<BlockKey>& keys) {
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return 0;
  std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
  const LoadResult result =
      client.Load(*stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon());
  for (uint32_t block = 0; block < result.blocks_loaded; ++block) {
    EXPECT_THAT(memory[block], ::testing::Each(static_cast<std::byte>(block)));
  }
  return result.blocks_loaded;
}

class HostPeersPathTest : public ::testing::TestWithParam<bool> {};

TEST_P(HostPeersPathTest, ReadsTakeThePathThatIsAskedFor) {
  InProcessCluster cluster({.nodes = 2, .map_host_peers = GetParam()});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 20);
  ASSERT_EQ(testing::Publish(*writer, keys, FillWithPosition), 20u);
  cluster.Settle();
  EXPECT_EQ(Fetch(*cluster.Connect(1, TestSpec(kBlockBytes)), keys), 20u);
  EXPECT_EQ(BytesMoved(cluster.node(1), GetParam() ? "same_host" : "remote"), 20.0 * kBlockBytes);
  EXPECT_EQ(BytesMoved(cluster.node(1), GetParam() ? "remote" : "same_host"), 0);
}
INSTANTIATE_TEST_SUITE_P(Mapped, HostPeersPathTest, ::testing::Bool());

TEST(HostPeersTest, MemoryOfADeadNodeIsLetGo) {
  InProcessCluster cluster({.nodes = 2});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 4);
  ASSERT_EQ(testing::Publish(*writer, keys, FillWithPosition), 4u);
  cluster.Settle();
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const size_t before = ArenasMapped();
  EXPECT_EQ(Fetch(*reader, keys), 4u);
  absl::Time end = Soon();
  while (ArenasMapped() < before + 2 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(ArenasMapped(), before + 2) << "node 1 maps node 0's, and so does its client";
  cluster.StopNode(0);
  end = Soon();
  while (ArenasMapped() > before - 1 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(ArenasMapped(), before - 1) << "its own went with it, and so did the others' views of it";

  // Its successor is found and mapped anew.
  cluster.StartNode(0);
  cluster.Settle();
  const auto again = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> more = ChainOf(*again, 4, 5000);
  ASSERT_EQ(testing::Publish(*again, more, FillWithPosition), 4u);
  cluster.Settle();
  EXPECT_EQ(Fetch(*reader, more), 4u);
  EXPECT_EQ(BytesMoved(cluster.node(1), "same_host"), 8.0 * kBlockBytes);
}

// What a process gets from the attach socket that shows `token`.
absl::StatusOr<FdPacket> Ask(const std::string& socket, const std::string& token) {
  const auto left = [] { return absl::Seconds(10); };
  STEM_ASSIGN(const UniqueFd fd, ConnectFdSocket(socket + ".attach", left));
  v1::AttachRequest request;
  request.set_protocol(1);
  request.set_host_peer_token(token);
  STEM_TRY(SendFdPacket(fd.get(), request.SerializeAsString(), {}));
  return ReceiveFdPacket(fd.get(), 1 << 16, 8, left);
}

TEST(HostPeersTest, OnlyMembersGetTheMemoryAndNobodyMayWriteIt) {
  InProcessCluster cluster({.nodes = 1});
  std::vector<uint8_t> bytes(32, 's');
  const ClusterSecret secret = *ClusterSecret::FromBytes(bytes);
  bytes[0] = 't';
  const ClusterSecret other = *ClusterSecret::FromBytes(bytes);
  const uint64_t incarnation = cluster.node(0).incarnation();
  for (const std::string& wrong : {other.HostPeerToken(incarnation), secret.HostPeerToken(incarnation + 1), std::string("x")}) {
    const absl::StatusOr<FdPacket> refused = Ask(cluster.socket(0), wrong);
    ASSERT_TRUE(refused.ok()) << refused.status();
    v1::AttachReply reply;
    ASSERT_TRUE(reply.ParseFromString(refused->bytes));
    EXPECT_EQ(reply.code(), static_cast<uint32_t>(absl::StatusCode::kUnauthenticated));
    EXPECT_TRUE(refused->fds.empty());
    EXPECT_TRUE(reply.arenas().empty());
  }
  const absl::StatusOr<FdPacket> granted = Ask(cluster.socket(0), secret.HostPeerToken(incarnation));
  ASSERT_TRUE(granted.ok()) << granted.status();
  ASSERT_EQ(granted->fds.size(), 1u);
  EXPECT_EQ(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, granted->fds[0].get(), 0), MAP_FAILED);
}

}  // namespace
}  // namespace stem
