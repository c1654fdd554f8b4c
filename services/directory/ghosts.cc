#include "services/directory/ghosts.h"

namespace stem {

namespace v1 = ::stemcache::v1;

Ghosts::Ghosts(uint64_t ghosts_max)
    : buckets_count_(ghosts_max / kBucketGhosts + (ghosts_max % kBucketGhosts != 0 ? 1 : 0)),
      buckets_(buckets_count_),
      forgot_(buckets_count_) {}

uint64_t Ghosts::Mix(uint64_t fingerprint) {
  uint64_t mixed = fingerprint * 0x9E3779B97F4A7C15ULL;
  mixed ^= mixed >> 32;
  return mixed * 0xC2B2AE3D27D4EB4FULL;
}

v1::MissCause Ghosts::Find(uint64_t fingerprint) const {
  const uint64_t mixed = Mix(fingerprint);
  if (buckets_count_ == 0) return v1::MISS_CAUSE_UNKNOWN;
  const uint64_t bucket = BucketOf(mixed);
  // Upwards, as ghosts move upwards: one that moves meanwhile is met again.
  for (const auto& each : buckets_[bucket].ghosts) {
    const uint64_t ghost = each.load(std::memory_order_acquire);
    if (ghost != 0 && ((ghost ^ mixed) & ~kCauseMask) == 0) return static_cast<v1::MissCause>(ghost & kCauseMask);
  }
  return forgot_[bucket].load(std::memory_order_acquire) ? v1::MISS_CAUSE_UNKNOWN : v1::MISS_CAUSE_COLD;
}

void Ghosts::Remember(uint64_t fingerprint, v1::MissCause cause) {
  if (buckets_count_ == 0) return;
  Erase(fingerprint);
  const uint64_t mixed = Mix(fingerprint);
  Bucket& bucket = buckets_[BucketOf(mixed)];
  uint32_t end = 0;  // the first place without a ghost, else the oldest's
  while (end + 1 < kBucketGhosts && bucket.ghosts[end].load(std::memory_order_relaxed) != 0) ++end;
  if (bucket.ghosts[end].load(std::memory_order_relaxed) != 0) {
    forgot_[BucketOf(mixed)].store(true, std::memory_order_release);
  } else {
    size_.fetch_add(1, std::memory_order_relaxed);
  }
  for (; end > 0; --end) {
    bucket.ghosts[end].store(bucket.ghosts[end - 1].load(std::memory_order_relaxed), std::memory_order_release);
  }
  bucket.ghosts[0].store((mixed & ~kCauseMask) | static_cast<uint64_t>(cause), std::memory_order_release);
}

void Ghosts::Erase(uint64_t fingerprint) {
  if (size() == 0) return;
  const uint64_t mixed = Mix(fingerprint);
  for (auto& each : buckets_[BucketOf(mixed)].ghosts) {
    const uint64_t ghost = each.load(std::memory_order_relaxed);
    if (ghost == 0 || ((ghost ^ mixed) & ~kCauseMask) != 0) continue;
    each.store(0, std::memory_order_release);
    size_.fetch_sub(1, std::memory_order_relaxed);
    return;
  }
}

}  // namespace stem
