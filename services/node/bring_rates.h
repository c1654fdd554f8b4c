// How fast blocks have come from each place lately: what fetch-or-recompute weighs against the engine's own speed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

#include "absl/time/time.h"
#include "proto/mutex.h"

namespace stem {

// Threads: any.
class BringRates {
 public:
  static constexpr size_t kPlacesMax = 1024;  // those beyond are not learned

  // `bytes` came from `place` in `time`, all waiting included. Ignored when either is zero.
  void Learn(const std::string& place, uint64_t bytes, absl::Duration time);

  // How long `bytes` more will take: a moving average of the last ten or so. Zero for a place of which nothing is known: it is tried.
  absl::Duration Expect(const std::string& place, uint64_t bytes) const;

 private:
  mutable Mutex mutex_;
  std::map<std::string, double> seconds_per_byte_ ABSL_GUARDED_BY(mutex_);  // by place
};

}  // namespace stem
