// The clock by which processes count durations: never set, never shared. Its epoch means nothing, so its times serve
// only to be subtracted; they are absl::Time so that plain cores can be given any.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace stem {

inline absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace stem
