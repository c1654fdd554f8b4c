// Latencies in constant memory: logarithmic buckets, each at most 1.6 % wide, from 1 ns to 78 hours.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/time/time.h"

namespace stem {

// Not for two threads at once: keep one per thread and Add() them up.
class LatencyHistogram {
 public:
  // Negative counts as 0, more than the longest as the longest.
  void Record(absl::Duration latency);
  void Add(const LatencyHistogram& other);

  uint64_t count() const { return count_; }
  // Microseconds that `fraction` (0..1) of the latencies do not exceed, to a bucket's width; 0 when there are none.
  double QuantileUs(double fraction) const;

 private:
  static constexpr int kStepBits = 6;  // 64 buckets per power of two
  static constexpr int kPowers = 48;
  static constexpr size_t kBuckets = (kPowers - kStepBits + 1) << kStepBits;
  static size_t BucketOf(uint64_t ns);
  static uint64_t UpperNs(size_t bucket);

  std::array<uint64_t, kBuckets> buckets_ = {};
  uint64_t count_ = 0;
};

}  // namespace stem
