#include "services/ctl/replay.h"

#include <algorithm>
#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/fake_node.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::FakeNode;

constexpr uint32_t kBlockTokens = 16;
constexpr uint32_t kBytesPerToken = 64;
constexpr uint64_t kBlockBytes = kBlockTokens * kBytesPerToken;

class ReplayTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.trace = directory_.path() + "/trace.jsonl";
    options_.block_tokens = kBlockTokens;
    options_.bytes_per_token = kBytesPerToken;
    options_.clients = 1;
    options_.deadline = absl::Seconds(20);
    AddNode();
  }

  void AddNode() {
    folders_.push_back(std::make_unique<TempDirectory>());
    nodes_.push_back(std::make_unique<FakeNode>(
        folders_.back()->path(), FakeNode::Options{.spec = ReplaySpace(kBlockTokens, kBytesPerToken)}));
    options_.nodes.push_back(folders_.back()->path() + "/node.sock");
  }

  // One line per request: its ids, and how many tokens its last block lacks.
  struct Prompt {
    std::vector<uint64_t> ids;
    uint32_t missing_tokens = 0;
  };
  void WriteTrace(const std::vector<Prompt>& prompts) {
    std::ofstream file(options_.trace);
    for (const Prompt& prompt : prompts) {
      file << R"({"timestamp":0,"input_length":)" << prompt.ids.size() * kBlockTokens - prompt.missing_tokens
           << R"(,"output_length":1,"hash_ids":[)";
      for (size_t i = 0; i < prompt.ids.size(); ++i) file << (i == 0 ? "" : ",") << prompt.ids[i];
      file << "]}\n";
    }
  }

  ReplayTally Run(const ReplayHooks& hooks = {}) {
    const auto report = RunReplay(options_, hooks, nullptr);
    EXPECT_TRUE(report.ok()) << report.status();
    if (!report.ok()) return {};
    const ReplayTally& tally = report->tally;
    uint64_t missed_tokens = 0;
    for (const uint64_t tokens : tally.miss_tokens) missed_tokens += tokens;
    EXPECT_EQ(tally.prompt_tokens, tally.matched_tokens + missed_tokens);  // law 10
    return tally;
  }

  TempDirectory directory_;
  std::vector<std::unique_ptr<TempDirectory>> folders_;
  std::vector<std::unique_ptr<FakeNode>> nodes_;
  ReplayOptions options_;
};

TEST_F(ReplayTest, WhatWasPublishedIsServedAndChecked) {
  WriteTrace({{{1, 2, 3}}, {{1, 2, 4}, 3}, {{1, 2, 3}}});
  const ReplayTally tally = Run();
  EXPECT_EQ(tally.requests, 3u);
  EXPECT_EQ(tally.hits[v1::SOURCE_LOCAL_DRAM], 5u);
  EXPECT_EQ(tally.miss_blocks(), 4u);
  EXPECT_EQ(tally.matched_tokens, 5u * kBlockTokens);
  EXPECT_EQ(tally.prompt_tokens, 9u * kBlockTokens - 3);
  EXPECT_EQ(tally.publish.committed, 4u);
  EXPECT_EQ(tally.bytes_published, 4 * kBlockBytes);
  EXPECT_EQ(tally.bytes_loaded[v1::SOURCE_LOCAL_DRAM], 5 * kBlockBytes);
  EXPECT_EQ(tally.mismatches, 0u);
  EXPECT_EQ(tally.match_latency.count(), 3u);
  EXPECT_EQ(tally.load_latency.count(), 2u);
  EXPECT_EQ(tally.publish_latency.count(), 2u);
}

TEST_F(ReplayTest, FlippedByteIsCaught) {
  WriteTrace({{{1, 2, 3}}, {{1, 2, 3}}});
  ReplayHooks hooks;
  hooks.loaded = [](const TraceRequest&, uint32_t, std::span<const std::span<std::byte>> payloads) {
    if (payloads.size() == 3) payloads[1][777] ^= std::byte{4};
  };
  const ReplayTally tally = Run(hooks);
  EXPECT_EQ(tally.mismatches, 1u);
  ASSERT_EQ(tally.mismatch_examples.size(), 1u);
  EXPECT_THAT(tally.mismatch_examples[0],
              AllOf(HasSubstr("line 2"), HasSubstr("block 1 of 3"), HasSubstr("offset 777")));
}

TEST_F(ReplayTest, SwappedSlotsAreCaught) {
  WriteTrace({{{1, 2, 3}}, {{1, 2, 3}}});
  ReplayHooks hooks;
  hooks.loaded = [](const TraceRequest&, uint32_t, std::span<const std::span<std::byte>> payloads) {
    if (payloads.size() == 3) std::swap_ranges(payloads[0].begin(), payloads[0].end(), payloads[2].begin());
  };
  EXPECT_EQ(Run(hooks).mismatches, 2u);
}

TEST_F(ReplayTest, MismatchesAreAllCountedAndTheFirstDescribed) {
  WriteTrace(std::vector<Prompt>(50, {{1, 2, 3}}));
  ReplayHooks hooks;
  hooks.loaded = [](const TraceRequest&, uint32_t, std::span<const std::span<std::byte>> payloads) {
    for (const auto& payload : payloads) payload[kBlockBytes - 1] ^= std::byte{1};
  };
  const ReplayTally tally = Run(hooks);
  EXPECT_EQ(tally.mismatches, 49u * 3);
  EXPECT_EQ(tally.mismatch_examples.size(), kMismatchExamplesMax);
}

TEST_F(ReplayTest, SlotOverwrittenUnderItsPinIsNeverServed) {
  WriteTrace({{{1, 2, 3}}});
  Run();
  // The client's proof refuses it before the oracle sees it.
  nodes_[0]->slot(1).payload(kBlockBytes)[5] ^= std::byte{1};
  const ReplayTally tally = Run();
  EXPECT_EQ(tally.hit_blocks(), 1u);
  EXPECT_EQ(tally.misses[v1::MISS_CAUSE_INTEGRITY], 1u);
  EXPECT_EQ(tally.misses[v1::MISS_CAUSE_UNREACHABLE], 1u);
  EXPECT_EQ(tally.mismatches, 0u);
}

TEST_F(ReplayTest, PartialBlocksAreCountedOrDropped) {
  WriteTrace({{{1, 2}, 10}, {{1, 2}, 10}, {{3}, 1}});
  const ReplayTally counted = Run();
  EXPECT_EQ(counted.hit_blocks() + counted.miss_blocks(), 5u);
  EXPECT_EQ(counted.matched_tokens, kBlockTokens + 6u);
  options_.partial = PartialBlock::kDrop;
  const ReplayTally dropped = Run();
  EXPECT_EQ(dropped.requests, 3u);
  EXPECT_EQ(dropped.hit_blocks() + dropped.miss_blocks(), 2u);
  EXPECT_EQ(dropped.miss_tokens[v1::MISS_CAUSE_BELOW_BLOCK], 6u + 6 + 15);
}

TEST_F(ReplayTest, RoundRobinTakesNodesInTurn) {
  AddNode();
  WriteTrace({{{1, 2}}, {{1, 2}}, {{1, 2}}, {{1, 2}}});
  const ReplayTally tally = Run();
  EXPECT_EQ(tally.publish.committed, 4u);  // these nodes know nothing of each other
  EXPECT_EQ(tally.hit_blocks(), 4u);
}

TEST_F(ReplayTest, SessionRoutingStaysWithOneNode) {
  AddNode();
  options_.routing = Routing::kSession;
  WriteTrace({{{1, 2}}, {{1, 2, 3}}, {{1, 2, 3, 4}}});
  EXPECT_EQ(Run().publish.committed, 4u);
}

TEST_F(ReplayTest, ManyClientsShareTheRequests) {
  AddNode();
  std::vector<Prompt> prompts;
  for (uint64_t i = 0; i < 200; ++i) prompts.push_back({{i % 3, 10 + i % 5}});
  WriteTrace(prompts);
  Run();  // the fake node takes commits of one client only, so all is published before
  options_.clients = 4;
  const ReplayTally tally = Run();
  EXPECT_EQ(tally.requests, 200u);
  EXPECT_EQ(tally.hit_blocks(), 400u);
  EXPECT_EQ(tally.mismatches, 0u);
}

TEST_F(ReplayTest, MaxRequestsEndsEarly) {
  WriteTrace({{{1}}, {{2}}, {{3}}});
  options_.requests_max = 2;
  EXPECT_EQ(Run().requests, 2u);
}

TEST_F(ReplayTest, NodeThatDiesInTheMiddleOfACallIsCountedAndTheOthersGoOn) {
  AddNode();
  WriteTrace({{{1, 2}}, {{1, 2}}, {{1, 2}}, {{1, 2}}});
  std::atomic<bool> asked = false;
  nodes_[1]->SetScript([&](const v1::ClientMessage& message, v1::NodeMessage&) {
    if (!message.has_acquire()) return false;
    asked = true;
    asked.notify_all();
    return true;  // and never answers
  });
  std::thread killer([&] {
    asked.wait(false);
    nodes_[1].reset();
  });
  const ReplayTally tally = Run();
  killer.join();
  EXPECT_EQ(tally.requests, 4u);
  EXPECT_EQ(tally.misses[v1::MISS_CAUSE_NODE_LOST], 2u);
  EXPECT_EQ(tally.hit_blocks(), 4u);  // the third and fourth request, both at the node that lives
  EXPECT_EQ(tally.mismatches, 0u);
}

TEST_F(ReplayTest, SilentNodeCostsTheDeadlineAndTheBlocksAreStillPublished) {
  options_.deadline = absl::Milliseconds(30);
  WriteTrace({{{1, 2}}});
  nodes_[0]->SetScript([](const v1::ClientMessage& message, v1::NodeMessage&) { return message.has_acquire(); });
  const ReplayTally tally = Run();
  EXPECT_EQ(tally.misses[v1::MISS_CAUSE_DEADLINE], 2u);
  EXPECT_EQ(tally.publish.committed + tally.publish.failed, 2u);
}

TEST_F(ReplayTest, BadLineStopsTheReplayBeforeItBegins) {
  WriteTrace({{{1}}});
  std::ofstream(options_.trace, std::ios::app) << "{\"timest";
  const auto report = RunReplay(options_, {}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("trace.jsonl:2:"));
}

TEST_F(ReplayTest, OptionsThatMakeNoSenseAreNamed) {
  WriteTrace({{{1}}});
  const auto error = [&](auto change) {
    ReplayOptions options = options_;
    change(options);
    const auto report = RunReplay(options, {}, nullptr);
    EXPECT_EQ(report.status().code(), absl::StatusCode::kInvalidArgument) << report.status();
    return std::string(report.status().message());
  };
  EXPECT_THAT(error([](ReplayOptions& o) { o.bytes_per_token = 1; }), HasSubstr("16 bytes; must be 64.."));
  EXPECT_THAT(error([](ReplayOptions& o) { o.clients = 0; }), HasSubstr("--clients 0"));
  EXPECT_THAT(error([](ReplayOptions& o) { o.routing = Routing::kBestMatch; }), HasSubstr("--directory"));
  EXPECT_THAT(error([](ReplayOptions& o) { o.nodes.clear(); }), HasSubstr("--nodes"));
  EXPECT_THAT(error([](ReplayOptions& o) { o.deadline = absl::ZeroDuration(); }), HasSubstr("--deadline-ms 0"));
}

TEST_F(ReplayTest, NodeThatIsNotThereIsNamed) {
  WriteTrace({{{1}}});
  options_.nodes.push_back("/nowhere/node.sock");
  const auto report = RunReplay(options_, {}, nullptr);
  EXPECT_EQ(report.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(report.status().message()), HasSubstr("/nowhere/node.sock"));
}

}  // namespace
}  // namespace stem
