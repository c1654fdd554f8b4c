#include "services/ctl/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace stem {

// Values below 2^kStepBits have a bucket each; above, the top bit picks the power and the next bits the step.
size_t LatencyHistogram::BucketOf(uint64_t ns) {
  const uint64_t value = std::min(ns, (uint64_t{1} << kPowers) - 1);
  if (value < (uint64_t{1} << kStepBits)) return value;
  const int shift = static_cast<int>(std::bit_width(value)) - 1 - kStepBits;
  return (static_cast<size_t>(shift) << kStepBits) + (value >> shift);
}

uint64_t LatencyHistogram::UpperNs(size_t bucket) {
  const size_t shift = bucket >> kStepBits;
  if (shift <= 1) return bucket;  // these buckets are 1 ns wide
  const uint64_t first = (bucket - ((shift - 1) << kStepBits)) << (shift - 1);
  return first + (uint64_t{1} << (shift - 1)) - 1;
}

void LatencyHistogram::Record(absl::Duration latency) {
  ++buckets_[BucketOf(static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(latency))))];
  ++count_;
}

void LatencyHistogram::Add(const LatencyHistogram& other) {
  for (size_t i = 0; i < kBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
}

double LatencyHistogram::QuantileUs(double fraction) const {
  if (count_ == 0) return 0;
  const auto rank =
      std::clamp<uint64_t>(static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(count_))), 1, count_);
  uint64_t seen = 0;
  size_t bucket = 0;
  while ((seen += buckets_[bucket]) < rank) ++bucket;
  return static_cast<double>(UpperNs(bucket)) / 1000.0;
}

}  // namespace stem
