#include "services/node/fetch/bring_rates.h"

#include <string>

#include "gtest/gtest.h"

namespace stem {
namespace {

constexpr absl::Time kNow = absl::UnixEpoch();

TEST(BringRatesTest, APlaceOfWhichNothingIsKnownIsTried) {
  const BringRates rates;
  EXPECT_EQ(rates.Expect("node a", 1 << 20, kNow), absl::ZeroDuration());
}

TEST(BringRatesTest, TheFirstFigureCountsWholeAndLaterOnesMoveIt) {
  BringRates rates;
  rates.Learn("ssd", 1000, absl::Milliseconds(1), kNow);
  EXPECT_EQ(rates.Expect("ssd", 2000, kNow), absl::Milliseconds(2));
  EXPECT_EQ(rates.Expect("node a", 2000, kNow), absl::ZeroDuration()) << "of another place";
  for (int i = 0; i < 50; ++i) rates.Learn("ssd", 1000, absl::Milliseconds(4), kNow);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(rates.Expect("ssd", 1000, kNow)), 4, 0.01);
  rates.Learn("ssd", 0, absl::Seconds(9), kNow);
  rates.Learn("ssd", 9, absl::ZeroDuration(), kNow);
  EXPECT_NEAR(absl::ToDoubleMilliseconds(rates.Expect("ssd", 1000, kNow)), 4, 0.01) << "nothing came, or in no time";
}

TEST(BringRatesTest, APlaceThatWasShunnedIsTriedAgain) {
  BringRates rates;
  rates.Learn("node a", 1000, absl::Seconds(5), kNow);  // a stall
  const absl::Time later = kNow + BringRates::kForgottenAfter;
  EXPECT_EQ(rates.Expect("node a", 1000, later), absl::Seconds(5));
  EXPECT_EQ(rates.Expect("node a", 1000, later + absl::Seconds(1)), absl::ZeroDuration());
  rates.Learn("node a", 1000, absl::Milliseconds(1), later + absl::Seconds(2));
  EXPECT_EQ(rates.Expect("node a", 1000, later + absl::Seconds(2)), absl::Milliseconds(1)) << "the stall is forgotten";
}

TEST(BringRatesTest, OnlySoManyPlacesAreLearned) {
  BringRates rates;
  for (size_t i = 0; i < BringRates::kPlacesMax + 1; ++i) rates.Learn(std::to_string(i), 1, absl::Seconds(1), kNow);
  EXPECT_EQ(rates.Expect(std::to_string(BringRates::kPlacesMax - 1), 1, kNow), absl::Seconds(1));
  EXPECT_EQ(rates.Expect(std::to_string(BringRates::kPlacesMax), 1, kNow), absl::ZeroDuration());
}

}  // namespace
}  // namespace stem
