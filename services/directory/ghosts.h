// What is remembered of blocks that left their last holder: why. 8 bytes each in a table of fixed size; the oldest of a
// bucket is forgotten first. One writer at a time, readers at any time: a reader may miss what is being written.
#pragma once

#include <atomic>
#include <cstdint>

#include "services/directory/index_memory.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

class Ghosts {
 public:
  // ghosts_max is rounded up to a multiple of 8.
  explicit Ghosts(uint64_t ghosts_max);

  // Any thread. The cause of its departure. When it is no ghost: COLD, or UNKNOWN where ghosts like it were forgotten.
  stemcache::v1::MissCause Find(uint64_t fingerprint) const;

  // The writer's.
  void Remember(uint64_t fingerprint, stemcache::v1::MissCause cause);
  // It is held again.
  void Erase(uint64_t fingerprint);

  uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  uint64_t bytes() const { return buckets_count_ * (sizeof(Bucket) + 1); }

 private:
  static constexpr uint32_t kBucketGhosts = 8;
  static constexpr uint64_t kCauseMask = 15;
  struct alignas(64) Bucket {
    std::atomic<uint64_t> ghosts[kBucketGhosts];  // the newest first: 60 bits of the name, 4 of the cause; 0 = none
  };

  __extension__ using Wide = unsigned __int128;
  static uint64_t Mix(uint64_t fingerprint);
  uint64_t BucketOf(uint64_t mixed) const {
    return static_cast<uint64_t>(static_cast<Wide>(mixed) * buckets_count_ >> 64);
  }

  const uint64_t buckets_count_;
  const LazyArray<Bucket> buckets_;
  const LazyArray<std::atomic<bool>> forgot_;  // by bucket: one of its ghosts gave way
  std::atomic<uint64_t> size_{0};
};

}  // namespace stem
