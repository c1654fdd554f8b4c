// A caller's deadline on the monotonic clock: the wall clock may be set while a call waits.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace stem {

class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  // At most one hour from now, which is also what the node grants.
  explicit Deadline(absl::Time wall)
      : at_(Clock::now() +
            absl::ToChronoNanoseconds(std::clamp(wall - absl::Now(), absl::ZeroDuration(), absl::Hours(1)))) {}

  Clock::time_point at() const { return at_; }
  absl::Duration left() const { return absl::FromChrono(at_ - Clock::now()); }
  bool passed() const { return Clock::now() >= at_; }
  // Time left as messages carry it: at least 1.
  uint64_t left_us() const { return static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Microseconds(left()))); }

 private:
  Clock::time_point at_;
};

}  // namespace stem
