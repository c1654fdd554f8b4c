// Fingerprint -> place in a stretch: the one table over all keys. An entry is 8 bytes and holds only part of the
// fingerprint; the stretch has the whole. 1,024 shards grow by an eighth, one at a time, so that memory follows the
// number of keys closely at every size. Readers take no lock; see ReaderEpochs for what they may still look at.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "services/directory/index_memory.h"
#include "services/directory/reader_epochs.h"
#include "services/directory/stretch.h"

namespace stem {

// Block `block` of the stretch at `stretch`.
struct Place {
  IndexRef stretch = 0;
  uint32_t block = 0;

  friend bool operator==(const Place&, const Place&) = default;
};

class KeyTable {
 public:
  // Borrows both. Replaced arrays are retired to `epochs`, for FreeArray.
  KeyTable(const IndexMemory& memory, ReaderEpochs& epochs);
  ~KeyTable();
  KeyTable(const KeyTable&) = delete;
  KeyTable& operator=(const KeyTable&) = delete;

  // Any thread, under a ReaderEpochs::Guard or as the writer. `fingerprint` is never 0.

  void Prefetch(uint64_t fingerprint) const {
    const uint64_t mixed = Mix(fingerprint);
    const View view = ViewOf(ShardOf(mixed));
    if (view.homes != 0) __builtin_prefetch(&view.buckets[HomeOf(TagOf(mixed), view.homes)]);
  }
  std::optional<Place> Find(uint64_t fingerprint) const;

  // The writer's, one thread at a time.

  // `fingerprint` is absent. False when there is no room for it: `bytes_left` is what arrays may still take.
  bool Insert(uint64_t fingerprint, Place place, uint64_t bytes_left);
  // It is at `from`, and from now on at `to`.
  void Move(uint64_t fingerprint, Place from, Place to);
  // It is at `place`.
  void Erase(uint64_t fingerprint, Place place);

  uint64_t size() const { return size_; }
  uint64_t bytes() const { return bytes_; }
  static void FreeArray(void* array);

 private:
  static constexpr size_t kShards = 1024;
  static constexpr size_t kBucketEntries = 8;
  static constexpr uint32_t kTagBits = 25;

  using Entry = std::atomic<uint64_t>;  // reference << 32 | block << 25 | tag; 0 = none
  struct alignas(64) Bucket {
    Entry entries[kBucketEntries];
  };
  // Entries lie in their home bucket, or in the first one after it that had room: all between are full.
  struct View {
    Bucket* buckets = nullptr;
    uint32_t homes = 0;  // kSpareBuckets more follow
  };
  struct Shard {
    std::atomic<uint64_t> view{0};   // a View, packed: bucket addresses are multiples of 64
    std::atomic<uint32_t> moves{0};  // entries that came nearer to their home
    uint32_t size = 0;
  };
  static constexpr uint32_t kSpareBuckets = 2;
  static constexpr uint32_t kHomesMin = 2;
  static constexpr uint32_t kHomesMax = (1U << 22) - 1;

  uint64_t Mix(uint64_t fingerprint) const {
    uint64_t mixed = (fingerprint ^ seed_) * multiplier_;
    mixed ^= mixed >> 32;
    return mixed * 0x9E3779B97F4A7C15ULL;
  }
  static uint32_t TagOf(uint64_t mixed) { return static_cast<uint32_t>(mixed >> 20) & ((1U << kTagBits) - 1); }
  static uint32_t HomeOf(uint32_t tag, uint32_t homes) {
    return static_cast<uint32_t>(static_cast<uint64_t>(tag) * homes >> kTagBits);
  }
  static uint64_t Pack(Place place, uint32_t tag) {
    return static_cast<uint64_t>(place.stretch) << 32 | static_cast<uint64_t>(place.block) << kTagBits | tag;
  }
  static Place PlaceOf(uint64_t entry) {
    return {.stretch = static_cast<IndexRef>(entry >> 32), .block = static_cast<uint32_t>(entry >> kTagBits) & 127};
  }
  static uint32_t TagIn(uint64_t entry) { return static_cast<uint32_t>(entry) & ((1U << kTagBits) - 1); }
  Shard& ShardOf(uint64_t mixed) const { return shards_[mixed >> 54]; }
  static View ViewOf(const Shard& shard) {
    const uint64_t packed = shard.view.load(std::memory_order_acquire);
    return {.buckets = reinterpret_cast<Bucket*>(packed >> 22 << 6), .homes = static_cast<uint32_t>(packed) & kHomesMax};
  }
  static uint64_t ArrayBytes(uint32_t homes) { return (homes + kSpareBuckets) * sizeof(Bucket); }
  static bool Put(View view, uint64_t entry);
  static bool IsFull(const Bucket& bucket);
  // False when the larger array would exceed `bytes_left`, or what is in the shard cannot be spread.
  bool Grow(Shard& shard, uint64_t bytes_left);
  Entry* EntryOf(uint64_t fingerprint, Place place, uint32_t* bucket) const;

  const IndexMemory& memory_;
  ReaderEpochs& epochs_;
  const std::unique_ptr<Shard[]> shards_;
  const uint64_t seed_;        // so that no one can choose keys that fall into one bucket
  const uint64_t multiplier_;
  uint64_t size_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace stem
