// Namespaces that let their spilled blocks be kept as codes, on real nodes: what comes back is near what was published and the same every time, for
// clients, peers and after a kill; what is exact stays exact beside it.
#include <signal.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/cache_client.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/quantize.h"
#include "services/ctl/ask.h"
#include "services/ctl/cluster.h"
#include "services/ctl/process.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "storage/block_meta.h"
#include "tests/support/eventually.h"
#include "tests/support/publishing.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::stem::testing::ChainOf;
using ::stem::testing::Publish;
using ::stem::testing::Soon;
using ::testing::Contains;
using ::testing::HasSubstr;

constexpr uint32_t kLayers = 4, kTokens = 16, kHeads = 2, kHeadDim = 64;
constexpr size_t kValues = size_t{kLayers} * 2 * kTokens * kHeads * kHeadDim;
constexpr uint64_t kBlockBytes = kValues * 2;  // bf16: 32 KiB
constexpr uint64_t kRecordBytes = kValues / kHeadDim * (kHeadDim + 4);
constexpr uint32_t kBlocks = 12, kChains = 8;  // 96 blocks of each namespace through some 28 slots

NamespaceSpec SpecOf(SpillEncoding encoding) {
  NamespaceSpec spec;
  spec.model = std::string("test-model");
  spec.kv_dtype = std::string("bf16");
  spec.layout = std::string("nhd");
  spec.block_tokens = kTokens;
  spec.parts = {{.layer_count = kLayers, .head_count = kHeads, .block_bytes = kBlockBytes}};
  spec.spill_encoding = encoding;
  return spec;
}

using Payload = std::vector<uint16_t>;

Payload PayloadOf(uint32_t chain, uint32_t block) {
  std::mt19937 random(1000 * chain + block);
  std::normal_distribution<float> gaussian(0, 3);
  Payload payload(kValues);
  for (uint16_t& value : payload) value = quant::ToBf16(gaussian(random));
  return payload;
}

struct Fetched {
  std::vector<Payload> blocks;
  std::vector<v1::Source> sources;

  bool all_from_ssd() const {
    return blocks.size() == kBlocks && std::all_of(sources.begin(), sources.end(), [](v1::Source source) { return source == v1::SOURCE_LOCAL_SSD; });
  }
};

// All blocks of a chain, proved by the client.
Fetched Fetch(CacheClient& client, const std::vector<BlockKey>& keys) {
  Fetched fetched;
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return fetched;
  EXPECT_EQ(stem->matched_blocks(), keys.size());
  for (uint32_t block = 0; block < stem->matched_blocks(); ++block) {
    const absl::StatusOr<View> view = client.Read(*stem, block, Soon());
    EXPECT_TRUE(view.ok()) << view.status();
    if (!view.ok()) return fetched;
    Payload& payload = fetched.blocks.emplace_back(view->payload().size() / 2);
    std::memcpy(payload.data(), view->payload().data(), view->payload().size());
    fetched.sources.push_back(stem->source(block));
  }
  return fetched;
}

// Whether every value is within the codec's bound of what was published, once for its code and once more for the code of a decoded value.
void ExpectNear(const Payload& payload, const Payload& published, quant::Codec codec) {
  ASSERT_EQ(payload.size(), published.size());
  for (size_t row = 0; row < kValues; row += kHeadDim) {
    double largest = 0;
    for (size_t i = row; i < row + kHeadDim; ++i) largest = std::max<double>(largest, std::abs(quant::FromBf16(published[i])));
    for (size_t i = row; i < row + kHeadDim; ++i) {
      const double was = quant::FromBf16(published[i]), is = quant::FromBf16(payload[i]);
      ASSERT_LE(std::abs(is - was), 2 * (QuantizationErrorMax(codec, was, largest) * (1 + 0x1p-7) + std::abs(was) * 0x1p-8)) << "value " << i;
    }
  }
}

class SpillEncodingTest : public ::testing::TestWithParam<SpillEncoding> {
 protected:
  void Up(bool map_host_peers) {
    const absl::StatusOr<ClusterState> state = ClusterUp({.dir = dir(), .nodes = 2, .dram_bytes = 1 << 20, .ssd_bytes = 64 << 20,
                                                          .map_host_peers = map_host_peers, .binaries = STEM_BINARIES});
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *state;
  }
  void TearDown() override { EXPECT_TRUE(ClusterDown(dir()).ok()); }
  std::string dir() const { return directory_.path() + "/c"; }

  std::unique_ptr<CacheClient> Connect(size_t node, const NamespaceSpec& spec) {
    absl::StatusOr<std::unique_ptr<CacheClient>> client =
        CacheClient::Connect({.node = "unix://" + state_.nodes[node].socket, .space = spec, .staging_bytes = 4 << 20}, Soon());
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  v1::NodeStatusReply StatusOf(size_t node) {
    const absl::StatusOr<v1::NodeStatusReply> status = Ask(state_.nodes[node].socket, nullptr, absl::Minutes(1), &v1::Node::Stub::NodeStatus);
    EXPECT_TRUE(status.ok()) << status.status();
    return status.value_or(v1::NodeStatusReply());
  }
  static std::vector<std::vector<BlockKey>> PublishAll(CacheClient& client) {
    std::vector<std::vector<BlockKey>> chains;
    for (uint32_t chain = 0; chain < kChains; ++chain) {
      chains.push_back(ChainOf(client, kBlocks, 1 + 100000 * chain));
      EXPECT_EQ(Publish(client, chains.back(),
                        [&](const WantedPayload& wanted) { std::memcpy(wanted.staging.data(), PayloadOf(chain, wanted.position).data(), kBlockBytes); }),
                kBlocks);
    }
    return chains;
  }
  // Reads all chains but the first, so that the first is the next to leave.
  static void PushOut(CacheClient& client, const std::vector<std::vector<BlockKey>>& chains) {
    for (uint32_t chain = 1; chain < kChains; ++chain) EXPECT_EQ(Fetch(client, chains[chain]).blocks.size(), kBlocks);
  }
  static quant::Codec codec() { return GetParam() == SpillEncoding::kInt8 ? quant::Codec::kInt8 : quant::Codec::kFp8E4m3; }

  TempDirectory directory_;
  ClusterState state_;
};

TEST_P(SpillEncodingTest, WhatComesBackIsNearAndTheSameHereThereAndAfterAKill) {
  ASSERT_NO_FATAL_FAILURE(Up(/*map_host_peers=*/true));
  const NamespaceSpec spec = SpecOf(GetParam());
  auto client = Connect(0, spec);
  const std::vector<std::vector<BlockKey>> chains = PublishAll(*client);

  Fetched first;
  for (int round = 0; round < 20 && !first.all_from_ssd(); ++round) {  // the policy may keep some of it a while
    PushOut(*client, chains);
    first = Fetch(*client, chains[0]);
  }
  ASSERT_TRUE(first.all_from_ssd());
  for (uint32_t block = 0; block < kBlocks; ++block) {
    ExpectNear(first.blocks[block], PayloadOf(0, block), codec());
    EXPECT_NE(first.blocks[block], PayloadOf(0, block)) << "codes are lossy";
  }

  PushOut(*client, chains);
  const Fetched again = Fetch(*client, chains[0]);
  EXPECT_THAT(again.sources, Contains(v1::SOURCE_LOCAL_SSD));
  EXPECT_EQ(again.blocks, first.blocks) << "decoded twice, and bit for bit the same";

  const Fetched remote = Fetch(*Connect(1, spec), chains[0]);
  EXPECT_EQ(remote.blocks, first.blocks);
  EXPECT_THAT(remote.sources, Contains(v1::SOURCE_REMOTE_DRAM));

  client.reset();
  ASSERT_TRUE(Signal(state_.nodes[0].process, SIGKILL).ok());
  ASSERT_TRUE(WaitForEnd(state_.nodes[0].process, absl::Seconds(10)));
  const absl::StatusOr<ClusterState> resumed = ClusterResume(dir(), STEM_BINARIES);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  state_ = *resumed;
  const Fetched restarted = Fetch(*Connect(0, spec), chains[0]);
  EXPECT_EQ(restarted.blocks, first.blocks);
  EXPECT_THAT(restarted.sources, Contains(v1::SOURCE_LOCAL_SSD));
  for (size_t node = 0; node < 2; ++node) EXPECT_EQ(StatusOf(node).integrity_failures(), 0u);
}

TEST_P(SpillEncodingTest, PeerFetchesOverItsTransportWhatItsHolderDecodes) {
  ASSERT_NO_FATAL_FAILURE(Up(/*map_host_peers=*/false));
  const NamespaceSpec spec = SpecOf(GetParam());
  auto client = Connect(0, spec);
  const std::vector<std::vector<BlockKey>> chains = PublishAll(*client);
  auto reader = Connect(1, spec);
  for (uint32_t chain = 0; chain < kChains; ++chain) {
    const Fetched there = Fetch(*reader, chains[chain]);
    ASSERT_EQ(there.blocks.size(), kBlocks);
    for (uint32_t block = 0; block < kBlocks; ++block) ExpectNear(there.blocks[block], PayloadOf(chain, block), codec());
    if (chain == 0) {
      EXPECT_THAT(there.sources, Contains(v1::SOURCE_REMOTE_SSD));
    }
  }
  for (size_t node = 0; node < 2; ++node) EXPECT_EQ(StatusOf(node).integrity_failures(), 0u);
}

TEST_P(SpillEncodingTest, ExactNamespaceBesideItStaysExactAndTheNodeSaysWhatWasSavedAndLost) {
  ASSERT_NO_FATAL_FAILURE(Up(/*map_host_peers=*/true));
  auto lossy = Connect(0, SpecOf(GetParam()));
  auto exact = Connect(0, SpecOf(SpillEncoding::kExact));
  EXPECT_THAT(exact->warnings(), Contains(HasSubstr("spill_encoding (")));
  const std::vector<std::vector<BlockKey>> lossy_chains = PublishAll(*lossy), exact_chains = PublishAll(*exact);
  ASSERT_NE(lossy_chains[0], exact_chains[0]) << "namespaces of their own";
  uint32_t from_ssd = 0;
  for (uint32_t chain = 0; chain < kChains; ++chain) {
    const Fetched near = Fetch(*lossy, lossy_chains[chain]), same = Fetch(*exact, exact_chains[chain]);
    ASSERT_EQ(near.blocks.size(), kBlocks);
    ASSERT_EQ(same.blocks.size(), kBlocks);
    for (uint32_t block = 0; block < kBlocks; ++block) {
      ExpectNear(near.blocks[block], PayloadOf(chain, block), codec());
      EXPECT_EQ(same.blocks[block], PayloadOf(chain, block));
      from_ssd += same.sources[block] == v1::SOURCE_LOCAL_SSD ? 1 : 0;
    }
  }
  EXPECT_GT(from_ssd, 0u);

  // Nothing leaves the SSD here, so that every block of the lossy namespace has the one record that it was spilled to.
  v1::NodeStatusReply status;
  const auto quota_counts_what_is_stored = [&] {  // not in the middle of a batch
    status = StatusOf(0);
    if (status.encoded_spills_size() != 1) return false;
    const uint64_t encoded = status.encoded_spills(0).payloads();
    return status.blocks_ssd() >= encoded && status.ssd_bytes_used() == encoded * SpillRecordBytes(kRecordBytes) +
                                                                            (status.blocks_ssd() - encoded) * SpillRecordBytes(kBlockBytes);
  };
  EXPECT_TRUE(Eventually(quota_counts_what_is_stored)) << status.ShortDebugString();
  ASSERT_EQ(status.encoded_spills_size(), 1) << "of the one that asks for it";
  const v1::NodeStatusReply::EncodedSpill& spilled = status.encoded_spills(0);
  EXPECT_EQ(spilled.encoding(), static_cast<v1::SpillEncoding>(GetParam()));
  EXPECT_THAT(spilled.namespace_(), HasSubstr("test-model@"));
  EXPECT_GT(spilled.payloads(), kBlocks);
  EXPECT_EQ(spilled.payload_bytes(), spilled.payloads() * kBlockBytes);
  EXPECT_EQ(spilled.record_bytes(), spilled.payloads() * kRecordBytes);
  EXPECT_EQ(spilled.payloads_kept(), 0u);
  EXPECT_EQ(spilled.payloads_sampled(), (spilled.payloads() + 15) / 16);
  const bool int8 = GetParam() == SpillEncoding::kInt8;
  EXPECT_GT(spilled.relative_error(), int8 ? 0.004 : 0.02);  // of Gaussian values: 0.007 and 0.026
  EXPECT_LT(spilled.relative_error(), int8 ? 0.01 : 0.03);
  EXPECT_GT(spilled.largest_error(), int8 ? 0.003 : 0.02);
  EXPECT_LT(spilled.largest_error(), int8 ? 0.009 : 0.07);
}

TEST_P(SpillEncodingTest, NamespaceThatCannotBeEncodedIsRefusedAtAttach) {
  ASSERT_NO_FATAL_FAILURE(Up(/*map_host_peers=*/true));
  NamespaceSpec spec = SpecOf(GetParam());
  spec.layout = std::string("opaque");
  const auto refused = CacheClient::Connect({.node = "unix://" + state_.nodes[0].socket, .space = spec}, Soon());
  ASSERT_FALSE(refused.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(refused.status())) << refused.status();
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("part 0 has layout opaque"));
}

INSTANTIATE_TEST_SUITE_P(EveryCode, SpillEncodingTest, ::testing::Values(SpillEncoding::kFp8E4m3, SpillEncoding::kInt8),
                         [](const auto& which) { return std::string(SpillEncodingName(which.param)); });

}  // namespace
}  // namespace stem
