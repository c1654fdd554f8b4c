// What this node remembers of blocks that left one of its tiers: why, when and how old. A table of fixed size, in which the
// oldest of a bucket is forgotten first. A hint like every index: blocks are known by 64 bits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "storage/pool/block_pool.h"

namespace stem {

// Threads: any. Times are of a monotonic clock.
class DepartureLog {
 public:
  static constexpr size_t kBytesDefault = 32 << 20;  // 1.4 million departures

  // Memory is taken as it is used.
  explicit DepartureLog(size_t bytes_max = kBytesDefault);

  // Short: called under a pool's lock.
  void Remember(const BlockLeft& left, absl::Time now);

  struct Departure {
    Residence from = Residence::kDram;
    GoneReason reason = GoneReason::kNone;
    std::string by;
    absl::Duration ago;
    absl::Duration age;
  };
  // The latest of that block.
  std::optional<Departure> Find(const BlockName& name, absl::Time now) const;

  // How far back nothing was forgotten; infinite when nothing was yet.
  absl::Duration reaches_back(absl::Time now) const;

 private:
  struct Entry {
    uint64_t fingerprint = 0;
    int64_t left_ms = 0;  // of the clock
    uint32_t age_ds = 0;  // tenths of a second
    uint8_t from = 0;
    uint8_t reason = 0;
    uint8_t by = 0;  // index into names_
    bool used = false;
  };
  static constexpr size_t kBucketEntries = 8;
  using Bucket = std::array<Entry, kBucketEntries>;  // the newest first
  struct FreeBuckets {
    void operator()(Bucket* buckets) const;
  };

  Bucket& BucketOf(uint64_t fingerprint) const;
  uint8_t NumberOf(absl::string_view by) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const size_t buckets_count_;
  const std::unique_ptr<Bucket[], FreeBuckets> buckets_;  // guarded by mutex_
  mutable Mutex mutex_;
  std::optional<absl::Time> forgot_ ABSL_GUARDED_BY(mutex_);  // when the latest that is forgotten had left
  std::vector<absl::string_view> names_ ABSL_GUARDED_BY(mutex_) = {""};
};

}  // namespace stem
