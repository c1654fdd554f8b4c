// Waiting for what comes by itself.
#pragma once

#include <functional>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace stem {

// Asks until it holds, for a minute at most: machines that run tests are slow.
inline bool Eventually(const std::function<bool()>& holds) {
  for (const absl::Time end = absl::Now() + absl::Seconds(60); absl::Now() < end; absl::SleepFor(absl::Milliseconds(3))) {
    if (holds()) return true;
  }
  return false;
}

}  // namespace stem
