#include "services/ctl/latency_histogram.h"

#include <cstdint>

#include <gtest/gtest.h>

namespace stem {
namespace {

TEST(LatencyHistogramTest, EmptyHasNoQuantile) { EXPECT_EQ(LatencyHistogram().QuantileUs(0.5), 0); }

TEST(LatencyHistogramTest, OneValueIsEveryQuantileToABucketsWidth) {
  for (uint64_t ns = 1; ns < (uint64_t{1} << 47); ns = ns * 3 + 1) {
    LatencyHistogram histogram;
    histogram.Record(absl::Nanoseconds(static_cast<int64_t>(ns)));
    for (const double fraction : {0.0, 0.5, 1.0}) {
      EXPECT_GE(histogram.QuantileUs(fraction) * 1000, static_cast<double>(ns) * 0.999999);
      EXPECT_LE(histogram.QuantileUs(fraction) * 1000, static_cast<double>(ns) * 1.016 + 1);
    }
  }
}

TEST(LatencyHistogramTest, QuantilesOfARampAreWhereTheyMustBe) {
  LatencyHistogram histogram;
  for (int us = 1; us <= 1000; ++us) histogram.Record(absl::Microseconds(us));
  EXPECT_EQ(histogram.count(), 1000u);
  EXPECT_NEAR(histogram.QuantileUs(0.50), 500, 8);
  EXPECT_NEAR(histogram.QuantileUs(0.95), 950, 15);
  EXPECT_NEAR(histogram.QuantileUs(0.99), 990, 16);
}

TEST(LatencyHistogramTest, SumIsAsIfRecordedInOne) {
  LatencyHistogram fast, slow;
  for (int i = 0; i < 90; ++i) fast.Record(absl::Microseconds(10));
  for (int i = 0; i < 10; ++i) slow.Record(absl::Milliseconds(10));
  fast.Add(slow);
  EXPECT_EQ(fast.count(), 100u);
  EXPECT_NEAR(fast.QuantileUs(0.90), 10, 0.2);
  EXPECT_NEAR(fast.QuantileUs(0.91), 10000, 160);
}

TEST(LatencyHistogramTest, ExtremesAreKeptInTheLastBuckets) {
  LatencyHistogram histogram;
  histogram.Record(-absl::Seconds(1));
  EXPECT_EQ(histogram.QuantileUs(1), 0);
  histogram.Record(absl::InfiniteDuration());
  EXPECT_GT(histogram.QuantileUs(1), 1e11);
}

}  // namespace
}  // namespace stem
