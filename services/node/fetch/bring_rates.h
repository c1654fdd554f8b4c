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

  static constexpr absl::Duration kForgottenAfter = absl::Seconds(10);

  // `bytes` came from `place` in `time`, all waiting included, by `now`. Ignored when either is zero.
  void Learn(const std::string& place, uint64_t bytes, absl::Duration time, absl::Time now);

  // How long `bytes` more will take: a moving average of the last ten or so. Zero for a place of which nothing is known, or nothing new
  // for kForgottenAfter: it is tried, as one that is never used would never be learned anew.
  absl::Duration Expect(const std::string& place, uint64_t bytes, absl::Time now) const;

 private:
  mutable Mutex mutex_;
  struct Rate {
    double seconds_per_byte = 0;
    absl::Time learned;
  };
  std::map<std::string, Rate> rates_ ABSL_GUARDED_BY(mutex_);  // by place
};

}  // namespace stem
