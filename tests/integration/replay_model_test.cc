// A real cluster of three nodes without SSD tier, replayed by one client, hits what the LRU model says it must.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "services/ctl/cluster.h"
#include "services/ctl/replay.h"
#include "services/ctl/simulate.h"
#include "services/ctl/status.h"
#include "services/ctl/trace.h"
#include "services/ctl/workload.h"
#include "tests/support/lru_model.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr uint32_t kNodes = 3;

class ReplayModelTest : public ::testing::Test {
 protected:
  void TearDown() override { ClusterDown(directory_.path()).status().IgnoreError(); }

  void Up(uint64_t dram_bytes, const std::string& policy = "lru", uint32_t nodes = kNodes) {
    ClusterUpOptions options;
    options.dir = directory_.path();
    options.nodes = nodes;
    options.policy = policy;
    options.dram_bytes = dram_bytes;
    options.binaries = STEM_BINARIES;
    options.map_host_peers = false;  // the model's nodes copy what they fetch, as nodes of several hosts do
    auto state = ClusterUp(options);
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *std::move(state);
  }

  // Replays in file order and returns what was counted.
  ReplayTally Replay(ReplayOptions options) {
    options.clients = 1;
    options.deadline = absl::Seconds(20);
    for (const ClusterMember& node : state_.nodes) options.nodes.push_back(node.socket);
    const auto report = RunReplay(options, {}, nullptr);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? report->tally : ReplayTally();
  }

  // Blocks that a node's DRAM holds: known once a namespace has attached.
  size_t SlotsOfANode() {
    const ClusterStatus status = QueryStatus(TargetsOf(state_));
    EXPECT_TRUE(status.whole()) << status.ToTable();
    return status.nodes[0].reply.ok() ? status.nodes[0].reply->arenas(0).slots() : 0;
  }

  double ModelHitRate(const ReplayOptions& options, size_t slots) {
    LruModel model(kNodes, slots, true);
    auto reader = TraceReader::Open(options.trace, {options.format, options.block_tokens});
    EXPECT_TRUE(reader.ok()) << reader.status();
    TraceRequest request;
    double hits = 0, blocks = 0;
    for (uint64_t i = 0; options.requests_max == 0 || i < options.requests_max; ++i) {
      const auto more = (*reader)->Next(&request);
      EXPECT_TRUE(more.ok()) << more.status();
      if (!more.ok() || !*more) break;
      const LruModel::Hits served = model.Serve(request.hash_ids);
      hits += static_cast<double>(served.local + served.remote);
      blocks += static_cast<double>(request.hash_ids.size());
    }
    return hits / blocks;
  }

  void ExpectAsModelled(const ReplayOptions& options) {
    const ReplayTally tally = Replay(options);
    EXPECT_EQ(tally.mismatches, 0u);
    EXPECT_GT(tally.hits[stemcache::v1::SOURCE_LOCAL_DRAM], 0u);
    EXPECT_GT(tally.hits[stemcache::v1::SOURCE_REMOTE_DRAM], 0u);
    EXPECT_GT(tally.misses[stemcache::v1::MISS_CAUSE_EVICTED], 0u);  // or the model was not put to the test
    EXPECT_NEAR(tally.block_hit_rate(), ModelHitRate(options, SlotsOfANode()), 0.01);
  }

  // One node with `stem`, whose DRAM holds a quarter of the distinct blocks, against the simulator at its slots.
  void ExpectAsSimulated(const ReplayOptions& options) {
    const ReplayTally tally = Replay(options);
    EXPECT_EQ(tally.mismatches, 0u);
    EXPECT_GT(tally.misses[stemcache::v1::MISS_CAUSE_EVICTED], 0u);
    SimulateOptions simulate{.trace = options.trace, .format = options.format};
    simulate.policies = {*ParseSimulatedPolicy("stem")};
    simulate.capacities_blocks = {SlotsOfANode()};
    const absl::StatusOr<SimulateReport> simulated = RunSimulation(simulate, nullptr);
    ASSERT_TRUE(simulated.ok()) << simulated.status();
    EXPECT_GT(simulated->distinct_blocks, 3 * simulate.capacities_blocks[0]);
    EXPECT_NEAR(tally.block_hit_rate(), simulated->results[0].block_hit_rate(), 0.01);
    std::printf("stem, %zu blocks: node %.4f, simulator %.4f\n", static_cast<size_t>(simulate.capacities_blocks[0]),
                tally.block_hit_rate(), simulated->results[0].block_hit_rate());
  }

  TempDirectory directory_;
  ClusterState state_;
};

TEST_F(ReplayModelTest, GeneratedChatHitsWhatTheModelSays) {
  WorkloadOptions workload;
  workload.requests = 1000;
  ReplayOptions options;
  options.trace = directory_.path() + "/workload.jsonl";
  options.format = TraceFormat::kStem;
  options.bytes_per_token = 64;
  ASSERT_TRUE(WriteWorkload(workload, options.trace).ok());
  ASSERT_NO_FATAL_FAILURE(Up(8 << 20));
  ExpectAsModelled(options);
}

TEST_F(ReplayModelTest, StemInANodeHitsWhatTheSimulatorSays) {
  WorkloadOptions workload;
  workload.requests = 3000;
  ReplayOptions options;
  options.trace = directory_.path() + "/workload.jsonl";
  options.format = TraceFormat::kStem;
  options.bytes_per_token = 64;
  ASSERT_TRUE(WriteWorkload(workload, options.trace).ok());
  ASSERT_NO_FATAL_FAILURE(Up(24 << 20, "stem", 1));
  ExpectAsSimulated(options);
}

TEST_F(ReplayModelTest, StemInANodeHitsOnRealConversationsWhatTheSimulatorSays) {
  ReplayOptions options;
  options.trace = STEM_SOURCE_DIR "/../shared/traces/mooncake_conversation.jsonl";
  if (!std::filesystem::exists(options.trace)) GTEST_SKIP() << "no conversation trace at " << options.trace;
  options.bytes_per_token = 8;
  ASSERT_NO_FATAL_FAILURE(Up(370ULL << 20, "stem", 1));
  ExpectAsSimulated(options);
}

TEST_F(ReplayModelTest, RealConversationsHitWhatTheModelSays) {
  ReplayOptions options;
  options.trace = STEM_SOURCE_DIR "/../shared/traces/mooncake_conversation.jsonl";
  if (!std::filesystem::exists(options.trace)) GTEST_SKIP() << "no conversation trace at " << options.trace;
  options.bytes_per_token = 8;  // 4 KiB blocks: the hit rate is of blocks, whatever their size
  ASSERT_NO_FATAL_FAILURE(Up(16 << 20));
  ExpectAsModelled(options);
}

}  // namespace
}  // namespace stem
