#include "services/ctl/why.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

v1::Departure Left(v1::RemoveReason reason, const std::string& policy) {
  v1::Departure left;
  left.set_node("node-2");
  left.set_tier(v1::TIER_DRAM);
  left.set_reason(reason);
  left.set_policy(policy);
  left.set_ago_ms(11 * 60'000);
  left.set_age_ms(4 * 60'000);
  return left;
}

v1::ExplainReply::Missing Missing(v1::MissCause cause) {
  v1::ExplainReply::Missing missing;
  missing.mutable_miss()->set_cause(cause);
  missing.mutable_miss()->set_count(1);
  return missing;
}

TEST(WhyTest, TimesAreAsRoughAsTheyAreLong) {
  EXPECT_EQ(RoughTime(absl::Microseconds(240)), "240 us");
  EXPECT_EQ(RoughTime(absl::Milliseconds(350)), "350 ms");
  EXPECT_EQ(RoughTime(absl::Milliseconds(4210)), "4.2 s");
  EXPECT_EQ(RoughTime(absl::Seconds(42)), "42 s");
  EXPECT_EQ(RoughTime(absl::Minutes(11)), "11 min");
  EXPECT_EQ(RoughTime(absl::Minutes(150)), "2.5 h");
  EXPECT_EQ(RoughTime(absl::Hours(72)), "3 d");
}

TEST(WhyTest, ADepartureSaysReasonTierNodeTimeAgeAndWhoChose) {
  EXPECT_EQ(WhyLeft(Left(v1::REMOVE_REASON_EVICTED, "stem")), "evicted from dram on node-2 11 min ago, age 4 min, by stem");
  EXPECT_EQ(WhyLeft(Left(v1::REMOVE_REASON_SPILL_REJECTED, "second-touch")),
            "evicted from dram on node-2 11 min ago, age 4 min; spill rejected: second-touch");
  EXPECT_EQ(WhyLeft(Left(v1::REMOVE_REASON_UNSPECIFIED, "stem")), "went from dram to ssd on node-2 11 min ago, age 4 min, by stem");
}

TEST(WhyTest, ACauseOfLeavingIsToldByItsDeparture) {
  v1::ExplainReply::Missing missing = Missing(v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(WhyMissing(missing), "left its last tier for space; no node that answers remembers when");
  *missing.add_departures() = Left(v1::REMOVE_REASON_EVICTED, "stem");
  EXPECT_EQ(WhyMissing(missing), WhyLeft(missing.departures(0)));
}

TEST(WhyTest, IncompatibleSaysTheFieldWithBothValues) {
  v1::ExplainReply::Missing missing = Missing(v1::MISS_CAUSE_INCOMPATIBLE);
  missing.mutable_difference()->set_field("kv_dtype");
  missing.mutable_difference()->set_asked("bf16");
  EXPECT_EQ(WhyMissing(missing), "its first tokens are known under another namespace of this tenant: kv_dtype is bf16 here and empty there");
}

TEST(WhyTest, ARequestsFailuresAreNamedWithTheirPeer) {
  v1::RequestRecord record;
  v1::RequestStep* const step = record.add_steps();
  step->set_name("lease");
  step->set_peer("node-3");
  step->set_error("connection refused");
  v1::Miss miss;
  miss.set_cause(v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(WhyMissed(record, miss), "the nodes that held it are lost; lease node-3: connection refused");
}

}  // namespace
}  // namespace stem
