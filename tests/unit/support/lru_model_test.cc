#include "tests/support/lru_model.h"

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "services/ctl/trace.h"

namespace stem {
namespace {

size_t Matched(LruModel& model, std::vector<uint64_t> ids) {
  const LruModel::Hits hits = model.Serve(ids);
  return hits.local + hits.remote;
}

TEST(LruModelTest, LeadingRunHits) {
  LruModel model(1, 100, true);
  EXPECT_EQ(Matched(model, {1, 2, 3}), 0u);
  EXPECT_EQ(Matched(model, {1, 2, 4}), 2u);
  EXPECT_EQ(Matched(model, {5, 2, 3}), 0u);
}

TEST(LruModelTest, OldestTailLeavesFirst) {
  LruModel model(1, 4, true);
  Matched(model, {1, 2, 3});
  Matched(model, {1, 4});
  Matched(model, {1, 5});  // five blocks: 3 is the oldest leaf
  EXPECT_EQ(Matched(model, {1, 2, 3}), 2u);
}

TEST(LruModelTest, WithoutLawSevenTheHeadLeavesFirst) {
  LruModel model(1, 2, false);
  Matched(model, {1, 2, 3});
  EXPECT_EQ(Matched(model, {1, 2, 3}), 0u);
}

TEST(LruModelTest, WithLawSevenTheTailLeavesFirst) {
  LruModel model(1, 2, true);
  Matched(model, {1, 2, 3});
  EXPECT_EQ(Matched(model, {1, 2, 3}), 2u);
}

TEST(LruModelTest, RemoteHitsAreCopiedToTheReader) {
  LruModel model(2, 100, true);
  Matched(model, {1, 2});                                // node 0
  const LruModel::Hits copied = model.Serve(std::vector<uint64_t>{1, 2});  // node 1
  EXPECT_EQ(copied.local, 0u);
  EXPECT_EQ(copied.remote, 2u);
  Matched(model, {9});                                   // node 0
  const LruModel::Hits local = model.Serve(std::vector<uint64_t>{1, 2});  // node 1
  EXPECT_EQ(local.local, 2u);
}

double BlockHitRate(const std::string& path, LruModel model) {
  auto reader = TraceReader::Open(path, {});
  EXPECT_TRUE(reader.ok()) << reader.status();
  size_t hits = 0, blocks = 0;
  TraceRequest request;
  for (;;) {
    const auto more = (*reader)->Next(&request);
    EXPECT_TRUE(more.ok()) << more.status();
    if (!more.ok() || !*more) break;
    const LruModel::Hits served = model.Serve(request.hash_ids);
    hits += served.local + served.remote;
    blocks += request.hash_ids.size();
  }
  EXPECT_EQ(blocks, 288500u);
  return static_cast<double>(hits) / static_cast<double>(blocks);
}

// The published LRU column of the conversation trace: one node, no law 7, evicted after each request.
TEST(LruModelTest, OneNodeMatchesThePublishedColumn) {
  const std::string path = STEM_SOURCE_DIR "/../shared/traces/mooncake_conversation.jsonl";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no conversation trace at " << path;
  EXPECT_NEAR(BlockHitRate(path, LruModel(1, 10000, false)), 0.2112, 0.00005);
  EXPECT_NEAR(BlockHitRate(path, LruModel(1, 20000, false)), 0.2875, 0.00005);
  EXPECT_NEAR(BlockHitRate(path, LruModel(1, 1 << 20, true)), 0.3664, 0.00005);
  const double closed = BlockHitRate(path, LruModel(1, 10000, true));
  RecordProperty("closed_10000", std::to_string(closed));
  EXPECT_GT(closed, 0.2112);  // keeping heads over tails can only help a prefix match
}

}  // namespace
}  // namespace stem
