#include "services/node/peers/lease_table.h"

#include <algorithm>
#include <utility>

namespace stem {

uint64_t LeaseTable::Grant(std::vector<BlockPin> pins, absl::Time now, absl::Duration duration) {
  MutexLock lock(mutex_);
  if (leases_.size() >= leases_max_) return 0;
  leases_[++last_id_] = {.pins = std::move(pins), .granted = now, .expiry = now + duration + kLeaseMargin};
  return last_id_;
}

bool LeaseTable::Renew(uint64_t id, absl::Time now, absl::Duration duration) {
  MutexLock lock(mutex_);
  const auto it = leases_.find(id);
  if (it == leases_.end()) return false;
  it->second.expiry = now + duration + kLeaseMargin;
  return true;
}

void LeaseTable::Return(uint64_t id) {
  Lease ended;  // declared before the lock: its pins end after it
  MutexLock lock(mutex_);
  const auto it = leases_.find(id);
  if (it == leases_.end()) return;
  ended = std::move(it->second);
  leases_.erase(it);
}

std::vector<BlockName> LeaseTable::NamesOf(uint64_t id, const std::vector<BlockKey>& keys) const {
  std::vector<BlockName> names;
  MutexLock lock(mutex_);
  const auto it = leases_.find(id);
  if (it == leases_.end()) return names;
  for (const BlockPin& pin : it->second.pins) {
    const BlockName& name = pin.meta().name;
    if (std::find(keys.begin(), keys.end(), name.key) != keys.end()) names.push_back(name);
  }
  return names;
}

size_t LeaseTable::Expire(absl::Time now) {
  std::vector<Lease> ended;
  {
    MutexLock lock(mutex_);
    for (auto it = leases_.begin(); it != leases_.end();) {
      if (it->second.expiry > now) {
        ++it;
        continue;
      }
      ended.push_back(std::move(it->second));
      leases_.erase(it++);
    }
  }
  return ended.size();
}

absl::Time LeaseTable::Oldest() const {
  MutexLock lock(mutex_);
  absl::Time oldest = absl::InfiniteFuture();
  for (const auto& [id, lease] : leases_) oldest = std::min(oldest, lease.granted);
  return oldest;
}

size_t LeaseTable::size() const {
  MutexLock lock(mutex_);
  return leases_.size();
}

}  // namespace stem
