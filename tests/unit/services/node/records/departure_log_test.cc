#include "services/node/records/departure_log.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

const absl::Time kNow = absl::UnixEpoch() + absl::Hours(1);

BlockName Name(uint64_t number) { return {{{.low = 1, .high = 2}}, {{.low = number * 0x9E3779B97F4A7C15ULL, .high = number}}}; }

BlockLeft Left(uint64_t number, GoneReason reason, absl::string_view by) {
  return {.name = Name(number), .from = Residence::kDram, .reason = reason, .by = by, .age = absl::Minutes(4)};
}

TEST(DepartureLogTest, SaysWhyWhenAndHowOld) {
  DepartureLog log;
  log.Remember(Left(1, GoneReason::kSpillRejected, "second-touch"), kNow);
  const auto left = log.Find(Name(1), kNow + absl::Minutes(11));
  ASSERT_TRUE(left.has_value());
  EXPECT_EQ(left->from, Residence::kDram);
  EXPECT_EQ(left->reason, GoneReason::kSpillRejected);
  EXPECT_EQ(left->by, "second-touch");
  EXPECT_EQ(left->ago, absl::Minutes(11));
  EXPECT_EQ(left->age, absl::Minutes(4));
  EXPECT_FALSE(log.Find(Name(2), kNow).has_value());
  EXPECT_EQ(log.reaches_back(kNow), absl::InfiniteDuration());
}

TEST(DepartureLogTest, TheLatestDepartureOfABlockCounts) {
  DepartureLog log;
  log.Remember(Left(1, GoneReason::kNone, "stem"), kNow);
  log.Remember(Left(1, GoneReason::kEvicted, "lru"), kNow + absl::Seconds(1));
  EXPECT_EQ(log.Find(Name(1), kNow + absl::Seconds(3))->ago, absl::Seconds(2));
  EXPECT_EQ(log.Find(Name(1), kNow)->by, "lru");
}

TEST(DepartureLogTest, WhenFullTheOldestGiveWayAndItSaysHowFarItReaches) {
  DepartureLog log(1);  // one bucket
  for (uint64_t i = 0; i < 10; ++i) log.Remember(Left(i, GoneReason::kEvicted, "lru"), kNow + absl::Seconds(static_cast<int64_t>(i)));
  EXPECT_FALSE(log.Find(Name(0), kNow).has_value());
  EXPECT_FALSE(log.Find(Name(1), kNow).has_value());
  for (uint64_t i = 2; i < 10; ++i) EXPECT_TRUE(log.Find(Name(i), kNow).has_value()) << i;
  EXPECT_EQ(log.reaches_back(kNow + absl::Seconds(10)), absl::Seconds(9));
}

}  // namespace
}  // namespace stem
