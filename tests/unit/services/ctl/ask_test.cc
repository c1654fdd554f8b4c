#include "services/ctl/ask.h"

#include <nlohmann/json.hpp>

#include "gtest/gtest.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

TEST(Ask, NumbersAreNumbersAndTextsStayTexts) {
  v1::RequestRecord record;
  record.set_model("007");
  record.set_request("12345");
  record.set_number(1ULL << 63);
  record.set_began_unix_ms(-5);
  record.add_hits()->set_bytes(7);
  record.add_steps()->set_peer("1");
  record.mutable_difference()->set_asked("16");
  const nlohmann::json json = ToJson(record);
  EXPECT_EQ(json["model"], "007");
  EXPECT_EQ(json["request"], "12345");
  EXPECT_EQ(json["steps"][0]["peer"], "1");
  EXPECT_EQ(json["difference"]["asked"], "16");
  EXPECT_EQ(json["number"], 1ULL << 63);
  EXPECT_EQ(json["began_unix_ms"], -5);
  EXPECT_EQ(json["hits"][0]["bytes"], 7);
}

TEST(Ask, RepeatedNumbersAreNumbersToo) {
  v1::NodeCounters counters;
  counters.add_tokens_hit(3);
  counters.add_tokens_hit(4);
  EXPECT_EQ(ToJson(counters)["tokens_hit"], (nlohmann::json{3, 4}));
}

}  // namespace
}  // namespace stem
