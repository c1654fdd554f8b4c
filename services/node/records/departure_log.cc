#include "services/node/records/departure_log.h"

#include <algorithm>
#include <cstdlib>

#include "proto/check.h"

namespace stem {

// calloc: pages that nothing was written to cost nothing.
DepartureLog::DepartureLog(size_t bytes_max)
    : buckets_count_(std::max<size_t>(bytes_max / sizeof(Bucket), 1)),
      buckets_(static_cast<Bucket*>(std::calloc(buckets_count_, sizeof(Bucket)))) {
  STEM_CHECK(buckets_ != nullptr);
}

void DepartureLog::FreeBuckets::operator()(Bucket* buckets) const { std::free(buckets); }

// Fingerprints are hashes: their upper bits choose.
DepartureLog::Bucket& DepartureLog::BucketOf(uint64_t fingerprint) const {
  __extension__ using Wide = unsigned __int128;
  return buckets_[static_cast<size_t>(static_cast<Wide>(fingerprint) * buckets_count_ >> 64)];
}

uint8_t DepartureLog::NumberOf(absl::string_view by) {
  const auto known = std::find(names_.begin(), names_.end(), by);
  const auto number = static_cast<size_t>(known - names_.begin());
  if (known == names_.end() && number <= UINT8_MAX) names_.push_back(by);
  return number <= UINT8_MAX ? static_cast<uint8_t>(number) : 0;
}

void DepartureLog::Remember(const BlockLeft& left, absl::Time now) {
  const uint64_t fingerprint = IndexFingerprint(left.name);
  MutexLock lock(mutex_);
  Bucket& bucket = BucketOf(fingerprint);
  const auto place = std::find_if(bucket.begin(), bucket.end() - 1, [&](const Entry& entry) {
    return !entry.used || entry.fingerprint == fingerprint;
  });
  if (place->used && place->fingerprint != fingerprint) {  // the last gives way
    const absl::Time gone = absl::FromUnixMillis(place->left_ms);
    forgot_ = std::max(forgot_.value_or(gone), gone);
  }
  std::rotate(bucket.begin(), place, place + 1);
  bucket.front() = {.fingerprint = fingerprint,
                    .left_ms = absl::ToUnixMillis(now),
                    .age_ds = static_cast<uint32_t>(std::min<int64_t>(left.age / absl::Milliseconds(100), UINT32_MAX)),
                    .from = static_cast<uint8_t>(left.from),
                    .reason = static_cast<uint8_t>(left.reason),
                    .by = NumberOf(left.by),
                    .used = true};
}

std::optional<DepartureLog::Departure> DepartureLog::Find(const BlockName& name, absl::Time now) const {
  const uint64_t fingerprint = IndexFingerprint(name);
  MutexLock lock(mutex_);
  for (const Entry& entry : BucketOf(fingerprint)) {
    if (!entry.used || entry.fingerprint != fingerprint) continue;
    return Departure{.from = static_cast<Residence>(entry.from),
                     .reason = static_cast<GoneReason>(entry.reason),
                     .by = std::string(names_[entry.by]),
                     .ago = now - absl::FromUnixMillis(entry.left_ms),
                     .age = absl::Milliseconds(100) * entry.age_ds};
  }
  return std::nullopt;
}

absl::Duration DepartureLog::reaches_back(absl::Time now) const {
  MutexLock lock(mutex_);
  return forgot_.has_value() ? now - *forgot_ : absl::InfiniteDuration();
}

}  // namespace stem
