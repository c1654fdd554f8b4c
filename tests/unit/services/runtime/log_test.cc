#include "services/runtime/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"

namespace stem {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;

class LogTest : public ::testing::Test {
 protected:
  LogOptions Options(LogFormat format, LogLevel level = LogLevel::kInfo) {
    return {.process = "stem-test", .format = format, .level = level, .out = &out_};
  }
  std::vector<std::string> Lines() {
    std::vector<std::string> lines = absl::StrSplit(out_.str(), '\n');
    lines.pop_back();
    return lines;
  }
  std::ostringstream out_;
};

TEST_F(LogTest, TextLineCarriesLevelEventAndFields) {
  Logger log(Options(LogFormat::kText));
  log.Info("node_attached", {{"session", 7}, {"client", "vllm"}, {"ratio", 0.5}, {"ok", true}});
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_THAT(Lines()[0], EndsWith("Z info node_attached session=7 client=vllm ratio=0.5 ok=true"));
}

TEST_F(LogTest, ValueWithNewlineStaysOnItsLine) {
  Logger log(Options(LogFormat::kText));
  log.Warn("bad_name", {{"name", "a\n2026 info forged x=\"1\""}});
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_THAT(Lines()[0], EndsWith(R"(name="a\n2026 info forged x=\"1\"")"));
}

TEST_F(LogTest, EmptyValueIsVisible) {
  Logger log(Options(LogFormat::kText));
  log.Info("e", {{"empty", ""}});
  EXPECT_THAT(Lines()[0], EndsWith("empty=\"\""));
}

TEST_F(LogTest, JsonLineParsesAndKeepsTypes) {
  Logger log(Options(LogFormat::kJson));
  log.Error("lease_lost", {{"count", uint64_t{18446744073709551615ULL}}, {"delta", -3}, {"peer", std::string("n1")},
                           {"fatal", false}});
  const auto line = nlohmann::json::parse(out_.str());
  EXPECT_EQ(line["level"], "error");
  EXPECT_EQ(line["event"], "lease_lost");
  EXPECT_EQ(line["process"], "stem-test");
  EXPECT_EQ(line["count"], 18446744073709551615ULL);
  EXPECT_EQ(line["delta"], -3);
  EXPECT_EQ(line["peer"], "n1");
  EXPECT_EQ(line["fatal"], false);
  EXPECT_THAT(line["ts"].get<std::string>(), ::testing::MatchesRegex("....-..-..T..:..:..\\.......Z"));
}

TEST_F(LogTest, BytesThatAreNotUtf8DoNotBreakJson) {
  Logger log(Options(LogFormat::kJson));
  log.Info("e", {{"raw", absl::string_view("\xff\xfe", 2)}});
  EXPECT_FALSE(nlohmann::json::parse(out_.str(), nullptr, false).is_discarded());
}

TEST_F(LogTest, LinesBelowTheLevelAreDropped) {
  Logger log(Options(LogFormat::kText, LogLevel::kWarn));
  log.Info("quiet");
  log.Debug("quieter");
  log.Warn("heard");
  ASSERT_EQ(Lines().size(), 1u);
  EXPECT_THAT(Lines()[0], HasSubstr("heard"));
  EXPECT_FALSE(log.Enabled(LogLevel::kInfo));
}

TEST_F(LogTest, LinesOfManyThreadsDoNotMix) {
  Logger log(Options(LogFormat::kJson));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 200; ++i) log.Info("tick", {{"thread", t}, {"i", i}});
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::vector<std::string> lines = Lines();
  ASSERT_EQ(lines.size(), 800u);
  for (const std::string& line : lines) EXPECT_FALSE(nlohmann::json::parse(line, nullptr, false).is_discarded()) << line;
}

TEST_F(LogTest, UnknownLevelAndFormatSayWhatIsRight) {
  EXPECT_EQ(*ParseLogLevel("warn"), LogLevel::kWarn);
  EXPECT_EQ(*ParseLogFormat("json"), LogFormat::kJson);
  EXPECT_THAT(std::string(ParseLogLevel("loud").status().message()), HasSubstr("'loud' is not a log level; use debug"));
  EXPECT_THAT(std::string(ParseLogFormat("xml").status().message()), HasSubstr("'xml' is not a log format; use text"));
}

}  // namespace
}  // namespace stem
