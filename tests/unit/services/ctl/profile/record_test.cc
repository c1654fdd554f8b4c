#include "services/ctl/profile/record.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "services/ctl/profile/compare.h"
#include "services/ctl/profile/journal.h"
#include "services/ctl/profile/engine_counters.h"
#include "services/ctl/profile/plot.h"
#include "services/ctl/profile/prompts.h"
#include "services/ctl/profile/verdict.h"

namespace stem::profile {
namespace {

using ::testing::AllOf;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Not;

Request Make(const std::string& phase, bool warm, uint32_t number, double first_s, double total_s = 1, uint64_t tokens = 11) {
  Request request{phase, warm, number};
  request.answer.http_status = 200;
  request.answer.pieces = tokens;
  request.answer.completion_tokens = tokens;
  request.answer.prompt_tokens = 100;
  request.answer.timing.first = absl::Seconds(first_s);
  request.answer.timing.total = absl::Seconds(total_s);
  request.answer.timing.gaps_s.assign(tokens - 1, 0.01);
  return request;
}

// Cold 0.6, 0.61, ..., warm 0.2 of it.
Record Good(double warm_share = 0.2, uint32_t rounds = 10) {
  Record record;
  record.url = "http://127.0.0.1:1";
  record.model = "m";
  record.engine = "vllm";
  record.prompt_set = "p";
  for (uint32_t i = 0; i < rounds; ++i) {
    record.requests.push_back(Make("average", false, i, 0.6 + 0.01 * i));
    record.requests.push_back(Make("average", true, i, warm_share * (0.6 + 0.01 * i)));
  }
  return record;
}

std::string Words(const Record& record) {
  std::string words;
  for (const Finding& finding : VerdictOf(record)) words += finding.word + " ";
  return words;
}

class RecordFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / "stem-profile-XXXXXX").string();
    const int fd = ::mkstemp(path_.data());
    ASSERT_GE(fd, 0);
    ::close(fd);
  }
  void TearDown() override { std::filesystem::remove(path_); }

  std::string path_;
};

// Nearest rank of 1..100: the 50th, 95th and 99th.
TEST(SpreadTest, PercentilesAreNearestRanks) {
  std::vector<double> values;
  for (int i = 100; i >= 1; --i) values.push_back(i);
  const Spread spread = SpreadOf(values);
  EXPECT_EQ(spread.p50, 50);
  EXPECT_EQ(spread.p95, 95);
  EXPECT_EQ(spread.p99, 99);
  EXPECT_EQ(SpreadOf({7}).p99, 7);
  EXPECT_EQ(SpreadOf({}).count, 0u);
}

// Ten tokens after the first in 1 - 0.6 s: 25 a second.
TEST(SpreadTest, SpeedLeavesThePrefillOut) {
  EXPECT_DOUBLE_EQ(TokensPerSecond(Good(), "average", false).front(), 25);
}

TEST(VerdictTest, PrefixCachingIsJudgedByColdOverWarm) {
  EXPECT_DOUBLE_EQ(ColdOverWarm(Good(), "average"), 5);
  EXPECT_THAT(VerdictOf(Good()).front().text, AllOf(HasSubstr("Prefix caching works"), HasSubstr("5.00 times")));
  EXPECT_THAT(VerdictOf(Good(0.95)).front().text, HasSubstr("does nothing here"));
  EXPECT_THAT(VerdictOf(Good(0.75)).front().text, HasSubstr("helps little"));
}

TEST(VerdictTest, WhereTimeGoesIsSaid) {
  EXPECT_THAT(Words(Good()), HasSubstr("prefill_bound"));  // 0.6 of 1 s
  Record slow = Good();
  for (Request& request : slow.requests) request.answer.timing.total = absl::Seconds(10);
  EXPECT_THAT(Words(slow), HasSubstr("decode_bound"));
}

TEST(VerdictTest, QueueingPressureAndPreemptionAreSaid) {
  Record record = Good();
  EXPECT_THAT(Words(record), AllOf(Not(HasSubstr("queueing")), Not(HasSubstr("preemption"))));
  for (uint32_t i = 0; i < 4; ++i) record.requests.push_back(Make("concurrent", false, i, 30));
  record.counters["concurrent"].preemptions = 2;
  record.counters["concurrent"].usage = 0.97;
  EXPECT_THAT(Words(record), AllOf(HasSubstr("queueing"), HasSubstr("preemption"), HasSubstr("cache_pressure")));
  EXPECT_THAT(RecordText(record), HasSubstr("beyond what the prefills before them take"));
}

TEST(VerdictTest, FailuresComeFirst) {
  Record record = Good();
  record.requests[0].answer.error = "status 500: broken";
  EXPECT_THAT(VerdictOf(record).front().text, HasSubstr("1 of 20 requests failed; the last: status 500"));
  EXPECT_EQ(VerdictOf(Record()).front().word, "nothing");
}

TEST_F(RecordFileTest, WhatIsWrittenIsReadBack) {
  Record record = Good();
  record.facts["dtype"] = "bf16";
  record.counters["average warm"].hits_tokens = 640;
  record.memory = {1, 2, 3};
  Request fixed = Make("fixed", false, 0, 0.1);
  fixed.answer.tokens = {"a", "b"};
  fixed.answer.logprobs = {-1, -2};
  record.requests.push_back(fixed);
  std::ofstream(path_) << record.ToJson().dump();
  const absl::StatusOr<Record> read = ReadRecord(path_);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->ToJson(), record.ToJson());
}

TEST_F(RecordFileTest, WhatIsNoRecordIsRefused) {
  for (const char* text : {"", "{}", "[1]", R"({"stemctl_profile": 99})", R"({"stemctl_profile": 1, "requests": [3]})",
                           R"({"stemctl_profile": 1, "model": 7})"}) {
    std::ofstream(path_, std::ios::trunc) << text;
    EXPECT_EQ(ReadRecord(path_).status().code(), absl::StatusCode::kDataLoss) << text;
  }
  EXPECT_EQ(ReadRecord("/no/such/record.json").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(RecordFileTest, AnInterruptedProfileGoesOn) {
  uint64_t seed = 5;
  {
    absl::StatusOr<Journal> journal = Journal::Open(path_, "this", &seed);
    ASSERT_TRUE(journal.ok()) << journal.status();
    journal->Add(Make("short", false, 3, 0.25));
  }
  std::ofstream(path_, std::ios::app) << R"({"phase": "sho)";  // killed while it wrote
  uint64_t other = 99;
  absl::StatusOr<Journal> again = Journal::Open(path_, "this", &other);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(other, 5u);  // the prompts are those of the first run
  EXPECT_EQ(again->known(), 1u);
  ASSERT_TRUE(again->Take("short", false, 3).has_value());
  EXPECT_EQ(again->Take("short", false, 3)->answer.timing.first, absl::Seconds(0.25));
  EXPECT_FALSE(again->Take("short", true, 3).has_value());
  EXPECT_EQ(Journal::Open(path_, "another", &other).status().code(), absl::StatusCode::kDataLoss);
  again->Remove();
  EXPECT_FALSE(std::filesystem::exists(path_));
}

// Ten of each and all of one below all of the other: U is 0 of 100, (0 - 50) / sqrt(100 x 21 / 12) = -3.78.
TEST(CompareTest, NoiseIsToldFromChange) {
  std::vector<double> low, high;
  for (int i = 0; i < 10; ++i) low.push_back(1 + 0.01 * i), high.push_back(2 + 0.01 * i);
  EXPECT_NEAR(std::abs(RankDeviate(low, high)), 3.78, 0.01);
  EXPECT_EQ(RankDeviate(low, low), 0);
  EXPECT_EQ(RankDeviate(low, {}), 0);
  const Comparison same = Compare(Good(), Good());
  EXPECT_EQ(same.changes.front().word, Change::Word::kNoise);
  EXPECT_TRUE(same.differences.empty());
  Record faster = Good();
  for (Request& request : faster.requests) request.answer.timing.first /= 2;
  const Comparison changed = Compare(Good(), faster);
  EXPECT_EQ(changed.changes.front().word, Change::Word::kMore);
  EXPECT_NEAR(changed.changes.front().percent, -50, 1e-9);
  EXPECT_EQ(Compare(Good(0.2, 3), Good(0.2, 3)).changes.front().word, Change::Word::kFewSamples);
}

TEST(CompareTest, WhatDiffersIsNamed) {
  Record other = Good();
  other.model = "n";
  other.facts["dtype"] = "fp8";
  other.prompt_set = "q";
  const Comparison comparison = Compare(Good(), other);
  EXPECT_THAT(comparison.differences, Contains("model: m -> n"));
  EXPECT_THAT(comparison.differences, Contains("dtype: (not told) -> fp8"));
  EXPECT_THAT(comparison.ToText(), HasSubstr("the prompts are not the same"));
}

// Outputs a b c d and a b x: two of four tokens before the first that differs; drifts 0.1 and 0.3.
TEST(CompareTest, OutputsAreComparedToTheFirstDifference) {
  Record before = Good(), after = Good();
  Request a = Make("fixed", false, 0, 0.1), b = a;
  a.answer.tokens = {"a", "b", "c", "d"};
  a.answer.logprobs = {-1, -1, -1, -1};
  b.answer.tokens = {"a", "b", "x"};
  b.answer.logprobs = {-1.1, -0.7, -5};
  before.requests.push_back(a);
  after.requests.push_back(b);
  const Agreement agreement = Compare(before, after).agreement;
  EXPECT_EQ(agreement.prompts, 1u);
  EXPECT_EQ(agreement.whole, 0u);
  EXPECT_DOUBLE_EQ(agreement.equal_share, 0.5);
  EXPECT_NEAR(agreement.logprob_drift, 0.2, 1e-9);
}

TEST(MetricsPageTest, SeriesAreSummedAndDifferencesTaken) {
  const std::string page =
      "# HELP x\nvllm:prefix_cache_hits_total{engine=\"0\"} 10\nvllm:prefix_cache_hits_total{engine=\"1\"} 5.0 1700\n"
      "vllm:prefix_cache_queries_total 100\nvllm:kv_cache_usage_perc{a=\"}\"} 0.5\nbroken{ 3\nnothing\n";
  const EngineCounters counters = CountersOf(ReadSeries(page));
  EXPECT_EQ(counters.hits_tokens, 15);
  EXPECT_EQ(counters.usage, 0.5);
  EXPECT_FALSE(counters.preemptions.has_value());
  EngineCounters before;
  before.hits_tokens = 5;
  before.queries_tokens = 1000;  // the engine was started again
  EXPECT_EQ(Between(before, counters).hits_tokens, 10);
  EXPECT_FALSE(Between(before, counters).queries_tokens.has_value());
}

TEST(PromptsTest, PromptsOfDifferentSeedsShareNoBeginning) {
  EXPECT_EQ(MakePrompt(1, 100, 1), MakePrompt(1, 100, 1));
  EXPECT_NE(MakePrompt(1, 100, 1).substr(0, 8), MakePrompt(2, 100, 1).substr(0, 8));
  const std::string words = MakePrompt(1, 100, 2);
  EXPECT_EQ(std::count(words.begin(), words.end(), ' '), 46);  // (100 - 4 x 2) / 2
}

TEST_F(RecordFileTest, OwnPromptsAreReadAndWrongLinesNamed) {
  std::ofstream(path_) << "{\"prompt\": \"a\"}\n\n{\"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"max_tokens\": 3}\n";
  const absl::StatusOr<std::vector<UserPrompt>> prompts = ReadPrompts(path_);
  ASSERT_TRUE(prompts.ok()) << prompts.status();
  EXPECT_EQ(prompts->at(1).max_tokens, 3u);
  for (const char* wrong : {"{}", "[]", "x", R"({"prompt": 3})", R"({"prompt": "a", "max_tokens": -1})", R"({"prompt": "a", "messages": []})"}) {
    std::ofstream(path_, std::ios::trunc) << "{\"prompt\": \"a\"}\n" << wrong << "\n";
    EXPECT_THAT(ReadPrompts(path_).status().message(), HasSubstr("line 2")) << wrong;
  }
  std::ofstream(path_, std::ios::trunc);
  EXPECT_THAT(ReadPrompts(path_).status().message(), HasSubstr("no prompt"));
}

TEST(PlotTest, EveryKindHasABar) {
  const std::string svg = PlotSvg(Good());
  EXPECT_THAT(svg, AllOf(HasSubstr("average cold"), HasSubstr("average warm"), HasSubstr("</svg>")));
  Record hostile = Good();
  hostile.model = "<script>";
  EXPECT_THAT(PlotSvg(hostile), AllOf(Not(HasSubstr("<script>")), HasSubstr("&lt;script&gt;")));
}

}  // namespace
}  // namespace stem::profile
