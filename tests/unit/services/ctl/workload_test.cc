#include "services/ctl/workload.h"

#include <map>
#include <set>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

using ::testing::HasSubstr;

std::vector<TraceRequest> AllOf(const WorkloadOptions& options) {
  Workload workload(options);
  std::vector<TraceRequest> requests;
  for (TraceRequest request; workload.Next(&request);) requests.push_back(request);
  return requests;
}

std::string Text(const WorkloadOptions& options) {
  std::string text;
  for (const TraceRequest& request : AllOf(options)) AppendStemTraceLine(request, &text);
  return text;
}

TEST(WorkloadTest, SameSeedSameRequests) {
  WorkloadOptions options;
  options.requests = 300;
  EXPECT_EQ(Text(options), Text(options));
  WorkloadOptions other = options;
  other.seed = 2;
  EXPECT_NE(Text(options), Text(other));
}

TEST(WorkloadTest, TimeNeverFallsAndEveryPromptHasItsBlocks) {
  WorkloadOptions options;
  options.requests = 500;
  uint64_t last_ms = 0;
  const auto requests = AllOf(options);
  ASSERT_EQ(requests.size(), 500u);
  for (const TraceRequest& request : requests) {
    EXPECT_GE(request.timestamp_ms, last_ms);
    last_ms = request.timestamp_ms;
    EXPECT_EQ(request.hash_ids.size(), (request.input_tokens + options.block_tokens - 1) / options.block_tokens);
  }
}

TEST(WorkloadTest, EachTurnExtendsTheFullBlocksOfTheLast) {
  WorkloadOptions options;
  options.requests = 500;
  std::map<uint64_t, TraceRequest> last;
  size_t followed = 0;
  for (const TraceRequest& request : AllOf(options)) {
    const auto it = last.find(*request.session);
    if (it == last.end()) {
      EXPECT_EQ(request.turn, 0u);
    } else {
      const TraceRequest& before = it->second;
      EXPECT_EQ(request.turn, before.turn + 1);
      EXPECT_GT(request.input_tokens, before.input_tokens + before.output_tokens);
      const size_t full = before.input_tokens / options.block_tokens;
      for (size_t i = 0; i < full; ++i) ASSERT_EQ(request.hash_ids[i], before.hash_ids[i]);
      if (before.hash_ids.size() > full) {
        EXPECT_NE(request.hash_ids[full], before.hash_ids[full]);
      }
      ++followed;
    }
    last[*request.session] = request;
  }
  EXPECT_GT(followed, 100u);
}

TEST(WorkloadTest, SystemPromptsAreSharedBetweenSessions) {
  WorkloadOptions options;
  options.requests = 500;
  std::map<uint64_t, std::set<uint64_t>> sessions_by_first_block;
  for (const TraceRequest& request : AllOf(options)) {
    sessions_by_first_block[request.hash_ids[0]].insert(*request.session);
  }
  size_t most = 0;
  for (const auto& [block, sessions] : sessions_by_first_block) most = std::max(most, sessions.size());
  EXPECT_GT(most, 10u);                                                   // popular
  EXPECT_LE(sessions_by_first_block.size(), options.system_prompts + 0u);  // and never a block of its own
}

TEST(WorkloadTest, OptionsOutOfRangeAreNamed) {
  WorkloadOptions options;
  options.block_tokens = 0;
  EXPECT_THAT(std::string(ValidateWorkload(options).message()), HasSubstr("--block-tokens 0; must be 1..65536"));
}

TEST(WorkloadTest, FileThatCannotBeWrittenIsNamed) {
  EXPECT_THAT(std::string(WriteWorkload({}, "/nowhere/w.jsonl").message()), HasSubstr("/nowhere/w.jsonl"));
  WorkloadOptions options;
  options.requests = 3;
  EXPECT_EQ(WriteWorkload(options, "/dev/full").code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace stem
