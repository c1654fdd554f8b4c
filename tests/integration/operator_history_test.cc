// What a directory tells of the fleet's traffic is what clients saw: hits by source, misses by cause, tokens saved, over restarts.
#include <numeric>

#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "stemcache/v1/operator.grpc.pb.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 16384;

absl::StatusCode CodeOf(const grpc::Status& status) { return static_cast<absl::StatusCode>(status.error_code()); }

class OperatorHistory : public ::testing::Test {
 protected:
  v1::HistoryReply Ask(const std::string& node = "") {
    std::ostringstream lines;
    Logger log({.process = "test", .out = &lines});
    const ClusterSecret secret = *ClusterSecret::Read(cluster_.secret_file(), log);
    const auto stub = v1::FleetOperator::NewStub(grpc::CreateChannel(cluster_.directory_address(), grpc::InsecureChannelCredentials()));
    v1::HistoryRequest request;
    request.set_seconds(3600);
    request.set_points_max(100);
    request.set_node(node);
    grpc::ClientContext context;
    secret.AddToken(context);
    v1::HistoryReply reply;
    const grpc::Status status = stub->History(&context, request, &reply);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return reply;
  }

  // Once the directory has heard of as many requests.
  v1::NodeCounters After(uint64_t requests) {
    for (int i = 0; i < 200; ++i) {
      const v1::HistoryReply reply = Ask();
      if (reply.total().requests() >= requests) return reply.total();
      absl::SleepFor(absl::Milliseconds(50));
    }
    ADD_FAILURE() << "the directory did not hear of " << requests << " requests";
    return {};
  }

  static void Fetch(CacheClient& client, const std::vector<BlockKey>& keys, AcquireOptions options = {}) {
    absl::StatusOr<Stem> stem = client.Acquire(keys, options, Soon());
    ASSERT_TRUE(stem.ok()) << stem.status();
    std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
    const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
    EXPECT_TRUE(client.Load(*stem, 0, destinations, Soon()).status.ok());
  }

  InProcessCluster cluster_{{.nodes = 2, .dram_bytes = 8 << 20, .map_host_peers = false}};
};

uint64_t Sum(const google::protobuf::RepeatedField<uint64_t>& values) {
  return std::accumulate(values.begin(), values.end(), uint64_t{0});
}

TEST_F(OperatorHistory, IsWhatClientsSaw) {
  const NamespaceSpec spec = TestSpec(kBlockBytes);
  const auto first = cluster_.Connect(0, spec);
  const auto second = cluster_.Connect(1, spec);
  const std::vector<BlockKey> keys = ChainOf(*first, 20);
  Fetch(*first, keys);  // cold: 20 blocks
  EXPECT_EQ(testing::Publish(*first, std::vector(keys.begin(), keys.begin() + 12), FillWithPosition), 12u);
  cluster_.Settle();
  Fetch(*first, keys, {.block_compute = absl::Milliseconds(1)});  // 12 here
  Fetch(*second, keys);                                           // 12 from there
  const v1::NodeCounters total = After(3);
  ASSERT_EQ(total.tokens_hit_size(), v1::Source_ARRAYSIZE);
  EXPECT_EQ(total.tokens_asked(), 60u * 16);
  EXPECT_EQ(total.tokens_hit(v1::SOURCE_LOCAL_DRAM), 12u * 16);
  EXPECT_EQ(total.tokens_hit(v1::SOURCE_REMOTE_DRAM), 12u * 16);
  EXPECT_EQ(Sum(total.tokens_hit()) + Sum(total.tokens_missed()), total.tokens_asked());
  EXPECT_EQ(total.prefill_saved_us(), 12'000u);
  EXPECT_EQ(total.blocks_published(), 12u);
  EXPECT_EQ(total.bytes(v1::BYTE_PATH_PUBLISH), 12 * kBlockBytes);
  EXPECT_EQ(total.bytes(v1::BYTE_PATH_LOCAL), 12 * kBlockBytes);
  EXPECT_EQ(total.bytes(v1::BYTE_PATH_REMOTE), 12 * kBlockBytes);
  ASSERT_EQ(total.tenants_size(), 1);
  EXPECT_EQ(total.tenants(0).tokens_asked(), 60u * 16);
  EXPECT_EQ(total.tenants(0).tokens_hit(), 24u * 16);
  EXPECT_EQ(Ask("node-1").total().tokens_asked(), 20u * 16);
  const v1::HistoryReply now = Ask();
  ASSERT_GT(now.points_size(), 0);
  EXPECT_EQ(now.points(now.points_size() - 1).nodes_live(), 2u);
  EXPECT_EQ(now.points(now.points_size() - 1).dram_bytes(), 2u * (8 << 20));
}

TEST_F(OperatorHistory, LostBlocksAreMissesAndNoLongerHits) {
  const NamespaceSpec spec = TestSpec(kBlockBytes);
  const auto first = cluster_.Connect(0, spec);
  const auto second = cluster_.Connect(1, spec);
  const std::vector<BlockKey> keys = ChainOf(*first, 8);
  EXPECT_EQ(testing::Publish(*first, keys, FillWithPosition), 8u);
  cluster_.Settle();
  {  // The bytes of the fifth block are altered where they lie: its proof fails at the reader, after it was promised.
    const std::span<std::byte> arena = cluster_.node(0).memories().front()->arena.bytes();
    const auto& pool = *cluster_.node(0).memories().front()->pool;
    const BlockPin pin = cluster_.node(0).memories().front()->pool->Pin({second->fingerprint(), PartKey(keys[4], 0)});
    ASSERT_TRUE(pin.valid());
    arena[pin.slot() * pool.geometry().slot_bytes + pool.geometry().payload_offset + 100] ^= std::byte{1};
  }
  absl::StatusOr<Stem> stem = second->Acquire(keys, {}, Soon());
  ASSERT_TRUE(stem.ok());
  const v1::NodeCounters total = After(1);
  EXPECT_EQ(total.tokens_hit(v1::SOURCE_REMOTE_DRAM), 4u * 16);
  EXPECT_EQ(total.tokens_missed(v1::MISS_CAUSE_INTEGRITY), 4u * 16);
  EXPECT_EQ(Sum(total.tokens_hit()) + Sum(total.tokens_missed()), total.tokens_asked());
  EXPECT_GE(total.integrity_failures(), 1u);
}

TEST_F(OperatorHistory, RestartedNodeGoesOn) {
  const NamespaceSpec spec = TestSpec(kBlockBytes);
  {
    const auto client = cluster_.Connect(0, spec);
    Fetch(*client, ChainOf(*client, 10));
    EXPECT_EQ(After(1).tokens_asked(), 10u * 16);
  }
  cluster_.StopNode(0);
  cluster_.StartNode(0);
  cluster_.Settle();
  const auto client = cluster_.Connect(0, spec);
  Fetch(*client, ChainOf(*client, 5));
  EXPECT_EQ(After(2).tokens_asked(), 15u * 16);
}

TEST_F(OperatorHistory, StrangersAreTurnedAwayAndSoAreBadCalls) {
  const auto stub = v1::FleetOperator::NewStub(grpc::CreateChannel(cluster_.directory_address(), grpc::InsecureChannelCredentials()));
  v1::HistoryRequest request;
  v1::HistoryReply reply;
  grpc::ClientContext stranger;
  EXPECT_EQ(CodeOf(stub->History(&stranger, request, &reply)), absl::StatusCode::kUnauthenticated);
  std::ostringstream lines;
  Logger log({.process = "test", .out = &lines});
  grpc::ClientContext member;
  ClusterSecret::Read(cluster_.secret_file(), log)->AddToken(member);
  EXPECT_EQ(CodeOf(stub->History(&member, request, &reply)), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace stem
