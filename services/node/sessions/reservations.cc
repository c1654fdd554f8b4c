#include "services/node/sessions/reservations.h"

namespace stem {

bool Reservations::TryReserve(const BlockName& name, uint64_t session, absl::Time now, absl::Time expiry) {
  MutexLock lock(mutex_);
  const auto [it, added] = claims_.try_emplace(name, Claim{session, expiry});
  if (added) return true;
  if (it->second.session != session && it->second.expiry > now) return false;
  it->second = {session, expiry};
  return true;
}

void Reservations::Free(std::span<const BlockName> names, uint64_t session) {
  MutexLock lock(mutex_);
  for (const BlockName& name : names) {
    const auto it = claims_.find(name);
    if (it != claims_.end() && it->second.session == session) claims_.erase(it);
  }
}

bool Reservations::Reserved(const BlockName& name, absl::Time now) const {
  MutexLock lock(mutex_);
  const auto it = claims_.find(name);
  return it != claims_.end() && it->second.expiry > now;
}

size_t Reservations::size() const {
  MutexLock lock(mutex_);
  return claims_.size();
}

size_t Reservations::Expire(absl::Time now) {
  MutexLock lock(mutex_);
  const size_t before = claims_.size();
  absl::erase_if(claims_, [&](const auto& claim) { return claim.second.expiry <= now; });
  return before - claims_.size();
}

}  // namespace stem
