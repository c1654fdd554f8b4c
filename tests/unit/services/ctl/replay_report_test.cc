#include "services/ctl/replay_report.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ReplayTally Filled() {
  ReplayTally tally;
  tally.requests = 2;
  tally.prompt_tokens = 1000;
  tally.matched_tokens = 250;
  tally.hits[v1::SOURCE_LOCAL_DRAM] = 3;
  tally.hits[v1::SOURCE_REMOTE_DRAM] = 2;
  tally.hits[v1::SOURCE_LOCAL_SSD] = 1;
  tally.hits[v1::SOURCE_REMOTE_SSD] = 4;
  tally.bytes_loaded[v1::SOURCE_LOCAL_SSD] = 100;
  tally.bytes_loaded[v1::SOURCE_REMOTE_SSD] = 400;
  tally.misses[v1::MISS_CAUSE_COLD] = 20;
  tally.misses[v1::MISS_CAUSE_NODE_LOST] = 10;
  tally.miss_tokens[v1::MISS_CAUSE_COLD] = 750;
  tally.bytes_published = 77;
  tally.publish = {5, 4, 3, 2, 1};
  for (int i = 0; i < 100; ++i) tally.match_latency.Record(absl::Microseconds(100));
  return tally;
}

TEST(ReplayReportTest, JsonHasTheStableNames) {
  const nlohmann::json json = ReplayReport{Filled(), PartialBlock::kCount, absl::Seconds(2)}.ToJson();
  EXPECT_EQ(json["requests"], 2);
  EXPECT_EQ(json["prompt_tokens"], 1000);
  EXPECT_EQ(json["matched_tokens"], 250);
  EXPECT_DOUBLE_EQ(json["token_hit_rate"].get<double>(), 0.25);
  EXPECT_DOUBLE_EQ(json["block_hit_rate"].get<double>(), 0.25);
  EXPECT_EQ(json["blocks"]["local_dram"], 3);
  EXPECT_EQ(json["blocks"]["remote_dram"], 2);
  EXPECT_EQ(json["blocks"]["ssd"], 5);
  EXPECT_EQ(json["blocks"]["miss"], (nlohmann::json{{"cold", 20}, {"node_lost", 10}}));
  EXPECT_EQ(json["bytes"], (nlohmann::json{{"published", 77}, {"local", 0}, {"remote", 0}, {"ssd", 500}}));
  EXPECT_EQ(json["mismatches"], 0);
  for (const char* step : {"match", "acquire", "load", "publish"}) {
    for (const char* quantile : {"p50", "p95", "p99"}) EXPECT_TRUE(json["latency_us"][step].contains(quantile)) << step;
  }
  EXPECT_NEAR(json["latency_us"]["match"]["p50"].get<double>(), 100, 2);
  EXPECT_DOUBLE_EQ(json["wall_s"].get<double>(), 2);
}

TEST(ReplayReportTest, EveryCountIsSummed) {
  ReplayTally sum = Filled();
  sum.Add(Filled());
  const nlohmann::json one = ReplayReport{Filled(), PartialBlock::kCount, {}}.ToJson();
  const nlohmann::json two = ReplayReport{sum, PartialBlock::kCount, {}}.ToJson();
  for (const char* path :
       {"/requests", "/prompt_tokens", "/matched_tokens", "/blocks/local_dram", "/blocks/remote_dram", "/blocks/ssd",
        "/blocks/miss/cold", "/bytes/published", "/bytes/ssd", "/miss_tokens/cold", "/publish/committed",
        "/publish/duplicate", "/publish/not_wanted", "/publish/refused", "/publish/failed"}) {
    const nlohmann::json::json_pointer pointer(path);
    EXPECT_EQ(two[pointer].get<uint64_t>(), 2 * one[pointer].get<uint64_t>()) << path;
  }
  EXPECT_EQ(sum.match_latency.count(), 200u);
}

TEST(ReplayReportTest, TableTellsRateCausesAndWhatTheRateMeans) {
  const std::string table = ReplayReport{Filled(), PartialBlock::kDrop, absl::Seconds(2)}.ToTable();
  EXPECT_THAT(table, AllOf(HasSubstr("0.2500"), HasSubstr("missed: cold"), HasSubstr("missed: node_lost"),
                           Not(HasSubstr("missed: evicted")), HasSubstr("dropped"), HasSubstr("mismatches 0")));
}

TEST(ReplayReportTest, EmptyReplayDividesByNothing) {
  const ReplayReport report;
  EXPECT_EQ(report.ToJson()["block_hit_rate"], 0.0);
  EXPECT_THAT(report.ToTable(), Not(HasSubstr("nan")));
}

}  // namespace
}  // namespace stem
