#include "services/node/bring_rates.h"

namespace stem {
namespace {
constexpr double kNewest = 0.2;  // weight of the newest figure
}  // namespace

void BringRates::Learn(const std::string& place, uint64_t bytes, absl::Duration time) {
  if (bytes == 0 || time <= absl::ZeroDuration()) return;
  const double now = absl::ToDoubleSeconds(time) / static_cast<double>(bytes);
  MutexLock lock(mutex_);
  const auto known = seconds_per_byte_.find(place);
  if (known != seconds_per_byte_.end()) {
    known->second += kNewest * (now - known->second);
  } else if (seconds_per_byte_.size() < kPlacesMax) {
    seconds_per_byte_.emplace(place, now);
  }
}

absl::Duration BringRates::Expect(const std::string& place, uint64_t bytes) const {
  MutexLock lock(mutex_);
  const auto known = seconds_per_byte_.find(place);
  return known == seconds_per_byte_.end() ? absl::ZeroDuration() : absl::Seconds(known->second * static_cast<double>(bytes));
}

}  // namespace stem
