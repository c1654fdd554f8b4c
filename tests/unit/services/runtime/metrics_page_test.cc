#include "services/runtime/metrics_page.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

TEST(LatencyBuckets, AscendFromOneMicrosecondToTenSeconds) {
  const auto buckets = LatencyBuckets();
  EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
  EXPECT_DOUBLE_EQ(buckets.front(), 1e-6);
  EXPECT_DOUBLE_EQ(buckets.back(), 10);
}

TEST(DurationHistogram, ABoundBelongsToItsBucketAndNothingIsLost) {
  DurationHistogram histogram;
  histogram.Observe(absl::Microseconds(1));
  histogram.Observe(absl::Microseconds(1) + absl::Nanoseconds(1));
  histogram.Observe(absl::Hours(1));
  const prometheus::ClientMetric::Histogram shown = histogram.Collect();
  EXPECT_EQ(shown.bucket[0].cumulative_count, 1u);
  EXPECT_EQ(shown.bucket[1].cumulative_count, 2u);
  EXPECT_EQ(shown.bucket.back().cumulative_count, 2u);
  EXPECT_EQ(shown.sample_count, 3u);
  EXPECT_NEAR(shown.sample_sum, 3600.000002, 1e-6);
}

TEST(DurationHistogram, ThreadsLoseNothing) {
  DurationHistogram histogram;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 10000; ++n) histogram.Observe(absl::Microseconds(n % 100));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(histogram.Collect().sample_count, 40000u);
}

TEST(MetricsPage, MetricsOfOneNameAreOneFamily) {
  constexpr std::array<const char*, 3> kValues = {"", "left", "right"};
  CounterSet counts(kValues);
  counts.Add("left", 3);
  counts.Add(2);
  MetricsPage page;
  page.Gauge("stemcache_level", "How high", 1.5, {{"where", "here"}});
  page.Gauge("stemcache_level", "How high", 2.5, {{"where", "there"}});
  page.Counters("stemcache_turns_total", "Turns taken", "side", counts);
  ASSERT_EQ(page.Families().size(), 2u);
  EXPECT_EQ(page.Value("stemcache_turns_total", {{"side", "left"}}), 3);
  EXPECT_EQ(page.Value("stemcache_turns_total", {{"side", "right"}}), 1);
  EXPECT_THAT(page.ToText(), HasSubstr("# HELP stemcache_level How high\n# TYPE stemcache_level gauge\n"
                                       "stemcache_level{where=\"here\"} 1.5\nstemcache_level{where=\"there\"} 2.5\n"));
  EXPECT_THAT(page.ToText(), HasSubstr("# TYPE stemcache_turns_total counter\nstemcache_turns_total{side=\"left\"} 3\n"));
  EXPECT_THAT(page.ToText(), ::testing::Not(HasSubstr("side=\"\"")));
}

TEST(LabelText, IsShortAndPrintable) {
  EXPECT_EQ(LabelText("org/model-7b"), "org/model-7b");
  EXPECT_EQ(LabelText("a\nb\xff"), "a_b_");
  EXPECT_EQ(LabelText(std::string(300, 'x')).size(), 64u);
}

}  // namespace
}  // namespace stem
