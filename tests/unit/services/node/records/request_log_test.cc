#include "services/node/records/request_log.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/validate.h"

namespace stem {
namespace {

class RequestLogTest : public ::testing::Test {
 protected:
  RequestLogTest() {
    space_.memory = &memory_;
    space_.spec.model = "m";
    memory_.group.name = "tenant";
  }

  RequestFacts Facts(const std::string& request, absl::Duration took = absl::Milliseconds(1)) const {
    RequestFacts facts;
    facts.space = &space_;
    facts.request = request;
    facts.began = absl::UnixEpoch() + absl::Hours(1);
    facts.ended = facts.began + took;
    facts.deadline = facts.began + absl::Seconds(1);
    return facts;
  }

  GroupMemory memory_;
  Space space_;
};

TEST_F(RequestLogTest, ARecordSaysWhatBecameOfTheRequest) {
  RequestLog log({.node = "node-1"});
  RequestFacts facts = Facts("r", absl::Milliseconds(3));
  facts.blocks_asked = 4;
  facts.blocks_matched = 1;
  facts.hits[v1::SOURCE_REMOTE_DRAM] = {.blocks = 1, .bytes = 100};
  v1::Miss miss;
  miss.set_first(1);
  miss.set_count(3);
  miss.set_cause(v1::MISS_CAUSE_COLD);
  facts.misses.push_back(miss);
  facts.first_missing_key = BlockKey{{.low = 5, .high = 6}};
  facts.steps.push_back({.stage = Stage::kMatch, .begin = facts.began + absl::Milliseconds(1), .end = facts.ended});
  log.Add(facts);
  RequestLog::Reader reader = log.Begin(false, "", 10);
  const std::vector<v1::RequestRecord> records = log.Read(&reader, absl::ZeroDuration());
  ASSERT_EQ(records.size(), 1u);
  const v1::RequestRecord& record = records[0];
  EXPECT_EQ(record.number(), 1u);
  EXPECT_EQ(record.node(), "node-1");
  EXPECT_EQ(record.kind(), "acquire");
  EXPECT_EQ(record.tenant(), "tenant");
  EXPECT_EQ(record.duration_us(), 3000u);
  EXPECT_EQ(record.deadline_us(), 1000000u);
  ASSERT_EQ(record.hits_size(), 1);
  EXPECT_EQ(record.hits(0).source(), v1::SOURCE_REMOTE_DRAM);
  EXPECT_EQ(record.misses(0).count(), 3u);
  EXPECT_EQ(record.first_missing_key(), facts.first_missing_key->bytes());
  ASSERT_EQ(record.steps_size(), 1);
  EXPECT_EQ(record.steps(0).name(), "match");
  EXPECT_EQ(record.steps(0).start_us(), 1000u);
  EXPECT_EQ(record.steps(0).duration_us(), 2000u);
}

TEST_F(RequestLogTest, WhoAsksForTheRecentGetsTheLatestOldestFirst) {
  RequestLog log({.node = "n", .recent_max = 3});
  for (int i = 0; i < 5; ++i) log.Add(Facts(absl::StrCat("r", i)));
  RequestLog::Reader reader = log.Begin(false, "", 2);
  std::vector<v1::RequestRecord> records = log.Read(&reader, absl::ZeroDuration());
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].request(), "r3");
  EXPECT_EQ(records[1].request(), "r4");
  EXPECT_EQ(records[0].skipped(), 0u);
  EXPECT_TRUE(log.Read(&reader, absl::ZeroDuration()).empty());
  reader = log.Begin(false, "", 0);
  EXPECT_TRUE(log.Read(&reader, absl::ZeroDuration()).empty());
  reader = log.Begin(false, "r3", 10);
  records = log.Read(&reader, absl::ZeroDuration());
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].request(), "r3");
}

TEST_F(RequestLogTest, SlowAndFailedOnesLastLonger) {
  RequestLog log({.node = "n", .recent_max = 2, .kept_max = 2, .slow = absl::Milliseconds(100)});
  log.Add(Facts("slow", absl::Milliseconds(100)));
  RequestFacts failed = Facts("failed");
  failed.error = "why";
  log.Add(failed);
  for (int i = 0; i < 5; ++i) log.Add(Facts("quick"));
  RequestLog::Reader reader = log.Begin(true, "", 10);
  const std::vector<v1::RequestRecord> records = log.Read(&reader, absl::ZeroDuration());
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].request(), "slow");
  EXPECT_EQ(records[1].error(), "why");
}

TEST_F(RequestLogTest, AFollowerThatIsTooSlowIsToldHowManyItMissed) {
  RequestLog log({.node = "n", .recent_max = 2});
  log.Add(Facts("a"));
  RequestLog::Reader reader = log.Begin(false, "", 10);
  EXPECT_EQ(log.Read(&reader, absl::ZeroDuration()).size(), 1u);
  for (int i = 0; i < 5; ++i) log.Add(Facts("b"));
  const std::vector<v1::RequestRecord> records = log.Read(&reader, absl::ZeroDuration());
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[0].skipped(), 3u);
  EXPECT_EQ(records[1].skipped(), 0u);
}

TEST_F(RequestLogTest, AFollowerIsWokenByTheNextRequestAndByTheEnd) {
  RequestLog log({.node = "n"});
  RequestLog::Reader reader = log.Begin(false, "", 0);
  std::thread adds([&] { log.Add(Facts("next")); });
  EXPECT_EQ(log.Read(&reader, absl::Hours(1)).size(), 1u);
  adds.join();
  std::thread stops([&] { log.Stop(); });
  EXPECT_TRUE(log.Read(&reader, absl::Hours(1)).empty());
  stops.join();
  EXPECT_TRUE(log.stopped());
}

}  // namespace
}  // namespace stem
