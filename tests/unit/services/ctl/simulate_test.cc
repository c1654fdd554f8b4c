// The simulator against the published table of the conversation trace, and against an oracle of its own on a generated one.
#include "services/ctl/simulate.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <list>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/ctl/hit_curve.h"
#include "services/ctl/workload.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class SimulateTest : public ::testing::Test {
 protected:
  SimulateOptions Generated(std::vector<std::string> policies, std::vector<uint64_t> capacities) {
    WorkloadOptions workload;
    workload.requests = 600;
    workload.sessions = 24;
    SimulateOptions options{.trace = directory_.path() + "/workload.jsonl", .format = TraceFormat::kStem};
    EXPECT_TRUE(WriteWorkload(workload, options.trace).ok());
    for (const std::string& name : policies) options.policies.push_back(*ParseSimulatedPolicy(name));
    options.capacities_blocks = std::move(capacities);
    return options;
  }
  static std::vector<TraceRequest> Read(const SimulateOptions& options) {
    const auto reader = TraceReader::Open(options.trace, {.format = options.format});
    EXPECT_TRUE(reader.ok()) << reader.status();
    std::vector<TraceRequest> requests(1);
    while (*(*reader)->Next(&requests.back())) requests.emplace_back();
    requests.pop_back();
    return requests;
  }
  static SimulateReport Run(const SimulateOptions& options) {
    absl::StatusOr<SimulateReport> report = RunSimulation(options, nullptr);
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *std::move(report) : SimulateReport();
  }

  TempDirectory directory_;
};

// LRU as a list that is searched from its recent end: the depth of a block is its stack distance.
uint64_t LruHits(const std::vector<TraceRequest>& requests, size_t capacity) {
  std::list<uint64_t> stack;
  uint64_t hits = 0;
  for (const TraceRequest& request : requests) {
    const auto end = std::next(stack.begin(), static_cast<ptrdiff_t>(std::min(capacity, stack.size())));
    for (const uint64_t id : request.hash_ids) {
      if (std::find(stack.begin(), end, id) == end) break;
      ++hits;
    }
    for (const uint64_t id : request.hash_ids) {
      stack.remove(id);
      stack.push_front(id);
    }
  }
  return hits;
}

uint64_t FifoHits(const std::vector<TraceRequest>& requests, size_t capacity) {
  std::list<uint64_t> queue;
  uint64_t hits = 0;
  for (const TraceRequest& request : requests) {
    const auto held = [&](uint64_t id) { return std::find(queue.begin(), queue.end(), id) != queue.end(); };
    hits += static_cast<uint64_t>(std::find_if_not(request.hash_ids.begin(), request.hash_ids.end(), held) - request.hash_ids.begin());
    for (const uint64_t id : request.hash_ids) {
      if (!held(id)) queue.push_back(id);
    }
    while (queue.size() > capacity) queue.pop_front();
  }
  return hits;
}

TEST_F(SimulateTest, LruAndFifoHitWhatTheirOraclesHit) {
  const SimulateOptions options = Generated({"lru", "fifo"}, {50, 300, 1000, 5000});
  const std::vector<TraceRequest> requests = Read(options);
  for (const SimulateResult& result : Run(options).results) {
    const auto oracle = result.policy == "lru" ? LruHits : FifoHits;
    EXPECT_EQ(result.blocks_hit, oracle(requests, result.capacity_blocks)) << result.policy << " " << result.capacity_blocks;
    EXPECT_GT(result.blocks_hit, 0u);
  }
}

TEST_F(SimulateTest, CurveOfLruIsWhatSimulationsFind) {
  SimulateOptions options = Generated({"lru", "belady"}, {});
  const absl::StatusOr<HitCurve> curve = TraceHitCurve(options, nullptr);
  ASSERT_TRUE(curve.ok()) << curve.status();
  const HitCurve::Line& lru = curve->lines[0];
  ASSERT_GT(lru.points.size(), 5u);
  for (const auto& [capacity, rate] : lru.points) options.capacities_blocks.push_back(capacity);
  const SimulateReport report = Run(options);
  for (size_t i = 0; i < lru.points.size(); ++i) {
    EXPECT_DOUBLE_EQ(lru.points[i].second, report.results[i].block_hit_rate()) << lru.points[i].first;
  }
  EXPECT_DOUBLE_EQ(lru.points.back().second, curve->ceiling);
  EXPECT_THAT(curve->ToSvg(), testing::AllOf(HasSubstr("<svg"), HasSubstr("belady"), HasSubstr("strict prefix"), HasSubstr("</svg>")));
  EXPECT_EQ(curve->ToJson()["lines"].size(), 2u);
}

TEST_F(SimulateTest, CurveOfLruAloneSaysWhatItsRatesAre) {
  const absl::StatusOr<HitCurve> curve = TraceHitCurve(Generated({"lru"}, {}), nullptr);
  ASSERT_TRUE(curve.ok()) << curve.status();
  EXPECT_THAT(curve->definition, testing::AllOf(HasSubstr("strict prefix"), HasSubstr("cold start")));
}

// What the README says hints are worth, in small.
TEST_F(SimulateTest, EnginesThatTellWhatEndsRaiseTheHitRate) {
  SimulateOptions options = Generated({"stem", "lru"}, {1500});
  const SimulateReport silent = Run(options);
  options.hints = SimulatedHints::kOutlook;
  const SimulateReport told = Run(options);
  EXPECT_GT(told.results[0].block_hit_rate(), silent.results[0].block_hit_rate() + 0.02);
  EXPECT_EQ(told.results[1].blocks_hit, silent.results[1].blocks_hit) << "lru does not listen";
  EXPECT_THAT(told.definition, HasSubstr("engines tell"));
}

TEST_F(SimulateTest, HintsNeedATraceWithSessions) {
  SimulateOptions options{.trace = directory_.path() + "/mooncake.jsonl", .hints = SimulatedHints::kConversation};
  std::ofstream(options.trace) << R"({"timestamp":0,"input_length":10,"output_length":1,"hash_ids":[1]})" << "\n";
  options.policies = {*ParseSimulatedPolicy("stem")};
  options.capacities_blocks = {10};
  const absl::Status refused = RunSimulation(options, nullptr).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("sessions"));
}

TEST_F(SimulateTest, PlainPoliciesLeaveOrphansAndLeafFirstOnesNone) {
  SimulateOptions options = Generated({"fifo", "lru", "arc"}, {300});
  for (const SimulateResult& result : Run(options).results) EXPECT_GT(result.orphan_blocks, 0u) << result.policy;
  options.leaf_first = true;
  options.policies.push_back(*ParseSimulatedPolicy("stem"));
  for (const SimulateResult& result : Run(options).results) EXPECT_EQ(result.orphan_blocks, 0u) << result.policy;
}

TEST_F(SimulateTest, SampleOfTheBlocksEstimatesTheWhole) {
  SimulateOptions options = Generated({"lru"}, {1600});
  options.leaf_first = true;
  const double exact = Run(options).results[0].block_hit_rate();
  options.sample_shift = 2;
  const SimulateReport sampled = Run(options);
  EXPECT_LT(sampled.references, 2 * Read(options).size() * 100);
  EXPECT_NEAR(sampled.results[0].block_hit_rate(), exact, 0.1);
  EXPECT_THAT(sampled.definition, HasSubstr("one block in 4"));
}

TEST_F(SimulateTest, SsdTierKeepsWhatDramGivesUpAndAdmissionSavesWrites) {
  SimulateOptions options = Generated({"lru"}, {300});
  options.leaf_first = true;
  const SimulateResult dram = Run(options).results[0];
  options.ssd_blocks = 100'000;
  const SimulateResult always = Run(options).results[0];
  EXPECT_GT(always.blocks_hit, dram.blocks_hit);
  EXPECT_GT(always.blocks_hit_ssd, 0u);
  EXPECT_EQ(always.orphan_blocks, 0u);
  options.admission = AdmissionKind::kSecondTouch;
  const SimulateResult second = Run(options).results[0];
  EXPECT_LT(second.ssd_writes, always.ssd_writes);
  EXPECT_GE(second.blocks_hit, dram.blocks_hit);
  EXPECT_EQ(second.orphan_blocks, 0u);
}

TEST_F(SimulateTest, BestMatchHitsMoreHereThanRoundRobin) {
  SimulateOptions options = Generated({"stem"}, {1000});
  options.nodes = 3;
  const SimulateResult turn = Run(options).results[0];
  options.routing = Routing::kBestMatch;
  const SimulateResult best = Run(options).results[0];
  EXPECT_GT(turn.blocks_hit_remote, best.blocks_hit_remote);
  EXPECT_GT(best.blocks_hit, 0u);
}

TEST_F(SimulateTest, RatesNameTheirDefinition) {
  SimulateOptions options = Generated({"lru"}, {300});
  EXPECT_EQ(Run(options).definition, "of all prompt blocks, cold start, strict prefix, partial last block counted as a block");
  options.warmup_requests = 100;
  options.partial = PartialBlock::kDrop;
  const SimulateReport warm = Run(options);
  EXPECT_EQ(warm.definition, "of all prompt blocks, after a warm-up of 100 requests, strict prefix, partial last block left out");
  EXPECT_THAT(warm.ToTable(), HasSubstr("warm-up of 100"));
  EXPECT_LT(warm.results[0].blocks, warm.references);
}

TEST_F(SimulateTest, WhatIsAskedWronglyIsNamed) {
  EXPECT_THAT(std::string(ParseSimulatedPolicy("mru").status().message()), testing::AllOf(HasSubstr("'mru'"), HasSubstr("belady")));
  SimulateOptions options = Generated({"lru"}, {0});
  EXPECT_THAT(std::string(RunSimulation(options, nullptr).status().message()), HasSubstr("--capacity-blocks 0"));
}

// The table that came with the trace.
TEST_F(SimulateTest, ConversationTraceHitsWhatItsTableSays) {
  SimulateOptions options{.trace = STEM_SOURCE_DIR "/../shared/traces/mooncake_conversation.jsonl"};
  if (!std::filesystem::exists(options.trace)) GTEST_SKIP() << "no conversation trace at " << options.trace;
  const std::map<std::string, std::vector<double>> table = {
      {"fifo", {0.0434, 0.0627, 0.1053, 0.1813, 0.2566, 0.3335}},
      {"lru", {0.0445, 0.0650, 0.1104, 0.2112, 0.2875, 0.3546}},
      {"lfu", {0.0811, 0.1178, 0.1422, 0.1879, 0.2488, 0.3430}},
      {"s3fifo", {0.0556, 0.0886, 0.1404, 0.1992, 0.2502, 0.3435}},  // at 3,000 the table has 0.0880
      {"belady", {0.1907, 0.2945, 0.3412, 0.3664, 0.3664, 0.3664}}};
  const std::vector<double> stem_floors = {0.081, 0.130, 0.165, 0.223, 0.287, 0.354};
  options.capacities_blocks = {1000, 3000, 5000, 10'000, 20'000, 50'000};
  for (const auto& [name, rates] : table) options.policies.push_back(*ParseSimulatedPolicy(name));
  options.policies.push_back(*ParseSimulatedPolicy("stem"));
  const SimulateReport report = Run(options);
  EXPECT_EQ(report.requests, 12'031u);
  EXPECT_EQ(report.references, 288'500u);
  EXPECT_EQ(report.distinct_blocks, 182'790u);
  for (size_t i = 0; i < report.results.size(); ++i) {
    const SimulateResult& result = report.results[i];
    const size_t column = i % options.capacities_blocks.size();
    if (result.policy == "stem") {
      EXPECT_GE(result.block_hit_rate(), stem_floors[column]) << result.capacity_blocks;
    } else {
      EXPECT_NEAR(result.block_hit_rate(), table.at(result.policy)[column], 0.00005) << result.policy << " " << result.capacity_blocks;
    }
  }
}

}  // namespace
}  // namespace stem
