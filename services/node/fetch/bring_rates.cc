#include "services/node/fetch/bring_rates.h"

namespace stem {
namespace {
constexpr double kNewest = 0.2;  // weight of the newest figure
}  // namespace

void BringRates::Learn(const std::string& place, uint64_t bytes, absl::Duration time, absl::Time now) {
  if (bytes == 0 || time <= absl::ZeroDuration()) return;
  const double newest = absl::ToDoubleSeconds(time) / static_cast<double>(bytes);
  MutexLock lock(mutex_);
  const auto known = rates_.find(place);
  if (known == rates_.end()) {
    if (rates_.size() < kPlacesMax) rates_[place] = {.seconds_per_byte = newest, .learned = now};
    return;
  }
  Rate& rate = known->second;
  if (now - rate.learned > kForgottenAfter) rate.seconds_per_byte = newest;
  rate.seconds_per_byte += kNewest * (newest - rate.seconds_per_byte);
  rate.learned = now;
}

absl::Duration BringRates::Expect(const std::string& place, uint64_t bytes, absl::Time now) const {
  MutexLock lock(mutex_);
  const auto known = rates_.find(place);
  if (known == rates_.end() || now - known->second.learned > kForgottenAfter) return absl::ZeroDuration();
  return absl::Seconds(known->second.seconds_per_byte * static_cast<double>(bytes));
}

}  // namespace stem
