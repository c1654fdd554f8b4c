// The live estimate against the simulator's LRU, on a generated workload and on the conversation trace.
#include "storage/policy/sampled_hit_curve.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "gtest/gtest.h"
#include "proto/mixed.h"
#include "services/ctl/simulate.h"
#include "services/ctl/workload.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr size_t kSampledMax = 32'768;  // as nodes do
const absl::Time kStart = absl::FromUnixSeconds(1'000'000);

std::vector<BlockKey> KeysOf(const std::vector<uint64_t>& ids) {
  std::vector<BlockKey> keys(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    keys[i].low = Mixed(ids[i] + 0x9E3779B97F4A7C15);
    keys[i].high = Mixed(ids[i] + 0x9E3779B97F4A7C15 + 0x5DEECE66D);
  }
  return keys;
}

SampledHitCurve::Curve Sampled(const SimulateOptions& trace, const SampledHitCurve::Options& options) {
  SampledHitCurve sampler(options);
  const auto reader = TraceReader::Open(trace.trace, {.format = trace.format});
  EXPECT_TRUE(reader.ok()) << reader.status();
  TraceRequest request;
  absl::Time now = kStart;
  while (*(*reader)->Next(&request)) {
    const std::vector<BlockKey> keys = KeysOf(request.hash_ids);
    sampler.Request({.space = {}, .keys = keys, .slots = 1}, now += absl::Milliseconds(1));
  }
  return sampler.Read(now);
}

struct Errors {
  double rate = 0;   // the largest difference to the simulator, from a quarter of the capacity to eight times
  double gain = 0;   // of what doubling a size adds
};

Errors ErrorsOf(SimulateOptions options, uint64_t capacity, size_t sampled_max) {
  options.policies = {*ParseSimulatedPolicy("lru")};
  options.capacities_blocks.clear();
  for (double factor = 0.25; factor <= 8; factor *= 2) {
    options.capacities_blocks.push_back(static_cast<uint64_t>(factor * static_cast<double>(capacity)));
  }
  const absl::StatusOr<SimulateReport> report = RunSimulation(options, nullptr);
  EXPECT_TRUE(report.ok()) << report.status();
  const SampledHitCurve::Curve curve = Sampled(options, {.capacity_slots = capacity, .sampled_max = sampled_max, .period = absl::Hours(24)});
  EXPECT_EQ(curve.blocks, report->references);
  Errors errors;
  double before = 0, estimated_before = 0;
  for (const SimulateResult& result : report->results) {
    const double estimate = curve.Hits(static_cast<double>(result.capacity_blocks)) / static_cast<double>(curve.blocks);
    std::printf("capacity %7lu: simulated %.4f, estimated %.4f from a sample of %.4f\n", result.capacity_blocks, result.block_hit_rate(),
                estimate, curve.sampled_fraction);
    errors.rate = std::max(errors.rate, std::abs(estimate - result.block_hit_rate()));
    const double gain_error = (estimate - estimated_before) - (result.block_hit_rate() - before);
    if (result.capacity_blocks > capacity) errors.gain = std::max(errors.gain, std::abs(gain_error));
    before = result.block_hit_rate();
    estimated_before = estimate;
  }
  return errors;
}

TEST(SampledHitCurve, WholeSampleIsTheSimulatorButForItsBuckets) {
  TempDirectory directory;
  SimulateOptions options{.trace = directory.path() + "/workload.jsonl", .format = TraceFormat::kStem};
  ASSERT_TRUE(WriteWorkload({.requests = 3000, .sessions = 100}, options.trace).ok());
  EXPECT_LT(ErrorsOf(options, 500, 1 << 20).rate, 0.005);
}

TEST(SampledHitCurve, SampleOfAGeneratedWorkloadIsClose) {
  TempDirectory directory;
  SimulateOptions options{.trace = directory.path() + "/workload.jsonl", .format = TraceFormat::kStem};
  ASSERT_TRUE(WriteWorkload({.requests = 20'000, .sessions = 500}, options.trace).ok());
  for (const uint64_t capacity : {2000, 10'000}) EXPECT_LT(ErrorsOf(options, capacity, kSampledMax).rate, 0.03) << capacity;
}

TEST(SampledHitCurve, ConversationTraceIsClose) {
  const SimulateOptions options{.trace = STEM_SOURCE_DIR "/../shared/traces/mooncake_conversation.jsonl"};
  if (!std::filesystem::exists(options.trace)) GTEST_SKIP() << "no conversation trace at " << options.trace;
  for (const uint64_t capacity : {5000, 20'000, 45'000}) {
    const Errors errors = ErrorsOf(options, capacity, kSampledMax);
    EXPECT_LT(errors.rate, 0.025) << capacity;
    EXPECT_LT(errors.gain, 0.01) << capacity;
  }
}

TEST(SampledHitCurve, WorkingSetIsWhatWasAskedLately) {
  SampledHitCurve sampler({.capacity_slots = 1000, .sampled_max = 1 << 20, .period = absl::Minutes(10)});
  const auto ask = [&](uint64_t first, uint64_t count, absl::Time now) {
    std::vector<uint64_t> ids(count);
    for (uint64_t i = 0; i < count; ++i) ids[i] = first + i;
    const std::vector<BlockKey> keys = KeysOf(ids);
    sampler.Request({.space = {}, .keys = keys, .slots = 2, .blocks_held = 1}, now);
  };
  ask(0, 100, kStart);
  ask(0, 100, kStart + absl::Minutes(1));
  EXPECT_DOUBLE_EQ(sampler.Read(kStart + absl::Minutes(1)).slots_used, 200);
  ask(50, 100, kStart + absl::Minutes(11));  // the next period; half is known
  EXPECT_DOUBLE_EQ(sampler.Read(kStart + absl::Minutes(12)).slots_used, 300);
  const SampledHitCurve::Curve later = sampler.Read(kStart + absl::Minutes(22));  // the first is forgotten
  EXPECT_DOUBLE_EQ(later.slots_used, 200);
  EXPECT_EQ(later.blocks, 100u);
  EXPECT_EQ(later.blocks_held, 1u);
  EXPECT_EQ(later.since, kStart + absl::Minutes(11));
}

TEST(SampledHitCurve, NothingBehindTheFirstUnknownBlockHits) {
  SampledHitCurve sampler({.capacity_slots = 1000, .sampled_max = 1 << 20});
  const std::vector<BlockKey> known = KeysOf({1, 2, 3, 4});
  const std::vector<BlockKey> other = KeysOf({1, 9, 3, 4});
  sampler.Request({.space = {}, .keys = known}, kStart);
  sampler.Request({.space = {}, .keys = other}, kStart);
  EXPECT_DOUBLE_EQ(sampler.Read(kStart).Hits(1000), 1);
  sampler.Request({.space = NamespaceFingerprint{{.low = 1, .high = 1}}, .keys = known}, kStart);  // another's
  EXPECT_DOUBLE_EQ(sampler.Read(kStart).Hits(1000), 1);
}

}  // namespace
}  // namespace stem
