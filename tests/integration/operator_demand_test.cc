// What a node tells of the stems it was asked for and of what more memory would hit, after real requests.
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "stemcache/v1/operator.grpc.pb.h"
#include "storage/pool/slot.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 16384;
constexpr uint64_t kDramBytes = 4 << 20;  // some 240 slots

class OperatorDemand : public ::testing::Test {
 protected:
  OperatorDemand() {
    std::ostringstream lines;
    Logger log({.process = "test", .out = &lines});
    secret_ = ClusterSecret::Read(cluster_.secret_file(), log).value();
    stub_ = v1::NodeOperator::NewStub(grpc::CreateChannel(cluster_.node(0).peer_address(), grpc::InsecureChannelCredentials()));
  }

  // A prompt of `shared` blocks that `group` has in common, and `own` more of its own.
  static std::vector<BlockKey> Prompt(const CacheClient& client, uint32_t group, uint32_t shared, uint32_t user, uint32_t own) {
    std::vector<uint32_t> tokens;
    for (uint32_t i = 0; i < 16 * shared; ++i) tokens.push_back(group * 100'000 + i);
    for (uint32_t i = 0; i < 16 * own; ++i) tokens.push_back(50'000'000 + user * 1000 + i);
    ChainHasher hasher = *client.NewHasher();
    std::vector<BlockKey> keys;
    EXPECT_TRUE(hasher.AppendTokens(tokens, keys).ok());
    return keys;
  }

  // As an engine does: asks, loads nothing, publishes what is missing.
  static void Serve(CacheClient& client, const std::vector<BlockKey>& keys) {
    { EXPECT_TRUE(client.Acquire(keys, {}, Soon()).ok()); }
    testing::Publish(client, keys, FillWithPosition);
  }

  v1::HotStemsReply Stems(uint32_t stems_max, const std::string& below = "") {
    v1::HotStemsRequest request;
    request.set_stems_max(stems_max);
    request.set_below(below);
    v1::HotStemsReply reply;
    grpc::ClientContext context;
    secret_->AddToken(context);
    EXPECT_TRUE(stub_->HotStems(&context, request, &reply).ok());
    return reply;
  }

  v1::HitCurveReply Curve() {
    v1::HitCurveReply reply;
    grpc::ClientContext context;
    secret_->AddToken(context);
    EXPECT_TRUE(stub_->HitCurve(&context, {}, &reply).ok());
    return reply;
  }

  InProcessCluster cluster_{{.nodes = 1, .dram_bytes = kDramBytes}};
  std::optional<ClusterSecret> secret_;
  std::unique_ptr<v1::NodeOperator::Stub> stub_;
};

TEST_F(OperatorDemand, HottestStemIsTheSharedPrompt) {
  const auto client = cluster_.Connect(0, TestSpec(kBlockBytes));
  for (uint32_t user = 0; user < 240; ++user) Serve(*client, Prompt(*client, user % 3 == 0 ? 2 : 1, 21, user, 3));
  const v1::HotStemsReply reply = Stems(10);
  ASSERT_GE(reply.stems_size(), 2);
  const std::vector<BlockKey> hot = Prompt(*client, 1, 21, 0, 0);
  EXPECT_EQ(reply.stems(0).key(), PackKeys(std::span(hot).last(1)));
  EXPECT_EQ(reply.stems(0).blocks(), 21u);
  EXPECT_EQ(reply.stems(0).model(), "test-model");
  EXPECT_EQ(reply.stems(0).block_tokens(), 16u);
  EXPECT_FALSE(reply.stems(0).tenant().empty());
  EXPECT_GE(reply.stems(0).requests(), 155u);  // of 160: where chains part is seen when the second does
  EXPECT_GT(reply.stems(0).hit_fraction(), 0.8);  // all but the first
  EXPECT_EQ(reply.stems(1).blocks(), 21u);
  const v1::HotStemsReply below = Stems(10, reply.stems(0).key());
  for (const auto& stem : below.stems()) EXPECT_GT(stem.blocks(), 21u);
}

TEST_F(OperatorDemand, MoreMemoryIsSeenToPayWhereTheWorkingSetDoesNotFit) {
  const auto client = cluster_.Connect(0, TestSpec(kBlockBytes));
  // 20 prompts of 20 blocks, in turn: 400 blocks, and there is room for some 240.
  for (uint32_t round = 0; round < 6; ++round) {
    for (uint32_t user = 0; user < 20; ++user) Serve(*client, Prompt(*client, 100 + user, 20, user, 0));
  }
  const v1::HitCurveReply curve = Curve();
  ASSERT_GT(curve.points_size(), 10);
  EXPECT_EQ(curve.dram_bytes(), kDramBytes);
  EXPECT_EQ(curve.references(), 6u * 400);
  EXPECT_DOUBLE_EQ(curve.sampled_fraction(), 1);
  EXPECT_LT(curve.hit_rate_now(), 0.8);
  double now = -1, twice = -1;
  for (int i = 0; i < curve.points_size(); ++i) {
    if (i > 0) {
      EXPECT_GE(curve.points(i).hit_rate(), curve.points(i - 1).hit_rate());
    }
    if (curve.points(i).bytes() <= kDramBytes) now = curve.points(i).hit_rate();
    if (curve.points(i).bytes() <= 2 * kDramBytes) twice = curve.points(i).hit_rate();
  }
  EXPECT_LT(now, 0.1);  // a loop that does not fit
  EXPECT_NEAR(twice, 5.0 / 6, 0.01);
  EXPECT_EQ(curve.working_set_bytes(), 400 * SlotGeometry::For(kBlockBytes).slot_bytes);
}

TEST_F(OperatorDemand, NothingAskedIsNoCurve) {
  EXPECT_EQ(Curve().points_size(), 0);
  EXPECT_EQ(Curve().dram_bytes(), kDramBytes);
  EXPECT_EQ(Stems(10).stems_size(), 0);
}

TEST_F(OperatorDemand, StrangersAreTurnedAwayAndSoAreBadCalls) {
  v1::HotStemsRequest request;
  request.set_stems_max(1);
  v1::HotStemsReply reply;
  v1::HitCurveReply curve;
  grpc::ClientContext stranger, other_stranger, member;
  EXPECT_EQ(stub_->HotStems(&stranger, request, &reply).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(stub_->HitCurve(&other_stranger, {}, &curve).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  secret_->AddToken(member);
  request.set_below("no key");
  EXPECT_EQ(stub_->HotStems(&member, request, &reply).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace stem
