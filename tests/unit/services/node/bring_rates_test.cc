#include "services/node/bring_rates.h"

#include <string>

#include "gtest/gtest.h"

namespace stem {
namespace {

TEST(BringRatesTest, APlaceOfWhichNothingIsKnownIsTried) {
  const BringRates rates;
  EXPECT_EQ(rates.Expect("node a", 1 << 20), absl::ZeroDuration());
}

TEST(BringRatesTest, TheFirstFigureCountsWholeAndLaterOnesMoveIt) {
  BringRates rates;
  rates.Learn("ssd", 1000, absl::Milliseconds(1));
  EXPECT_EQ(rates.Expect("ssd", 2000), absl::Milliseconds(2));
  EXPECT_EQ(rates.Expect("node a", 2000), absl::ZeroDuration()) << "of another place";
  for (int i = 0; i < 50; ++i) rates.Learn("ssd", 1000, absl::Milliseconds(4));
  EXPECT_NEAR(absl::ToDoubleMilliseconds(rates.Expect("ssd", 1000)), 4, 0.01);
  rates.Learn("ssd", 0, absl::Seconds(9));
  rates.Learn("ssd", 9, absl::ZeroDuration());
  EXPECT_NEAR(absl::ToDoubleMilliseconds(rates.Expect("ssd", 1000)), 4, 0.01) << "nothing came, or in no time";
}

TEST(BringRatesTest, OnlySoManyPlacesAreLearned) {
  BringRates rates;
  for (size_t i = 0; i < BringRates::kPlacesMax + 1; ++i) rates.Learn(std::to_string(i), 1, absl::Seconds(1));
  EXPECT_EQ(rates.Expect(std::to_string(BringRates::kPlacesMax - 1), 1), absl::Seconds(1));
  EXPECT_EQ(rates.Expect(std::to_string(BringRates::kPlacesMax), 1), absl::ZeroDuration());
}

}  // namespace
}  // namespace stem
