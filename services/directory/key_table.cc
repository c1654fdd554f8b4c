#include "services/directory/key_table.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>

#include "proto/check.h"

namespace stem {
namespace {

constexpr uint64_t kMapBytesMin = 64 << 10;  // below it, a page's rounding would cost more than the allocator's own
constexpr size_t kHeaderBytes = 64;          // before an array: its size, for FreeArray

uint64_t Draw() {
  std::random_device device;
  return static_cast<uint64_t>(device()) << 32 | device();
}

void* NewArray(uint64_t bytes) {
  const uint64_t all = bytes + kHeaderBytes;
  void* memory = nullptr;
  if (all >= kMapBytesMin) {
    memory = MapLazily(all);
  } else {
    memory = std::aligned_alloc(64, all);
    STEM_CHECK(memory != nullptr);
    std::memset(memory, 0, all);
  }
  std::memcpy(memory, &all, sizeof(all));
  return static_cast<std::byte*>(memory) + kHeaderBytes;
}

}  // namespace

void KeyTable::FreeArray(void* array) {
  std::byte* memory = static_cast<std::byte*>(array) - kHeaderBytes;
  uint64_t all = 0;
  std::memcpy(&all, memory, sizeof(all));
  if (all >= kMapBytesMin) {
    UnmapLazy(memory, all);
  } else {
    std::free(memory);
  }
}

KeyTable::KeyTable(const IndexMemory& memory, ReaderEpochs& epochs)
    : memory_(memory),
      epochs_(epochs),
      shards_(std::make_unique<Shard[]>(kShards)),
      seed_(Draw()),
      multiplier_(Draw() | 1) {}

KeyTable::~KeyTable() {
  for (size_t i = 0; i < kShards; ++i) {
    if (void* array = ViewOf(shards_[i]).buckets; array != nullptr) FreeArray(array);
  }
}

std::optional<Place> KeyTable::Find(uint64_t fingerprint) const {
  const uint64_t mixed = Mix(fingerprint);
  const uint32_t tag = TagOf(mixed);
  const Shard& shard = ShardOf(mixed);
  for (;;) {
    const uint32_t moves = shard.moves.load(std::memory_order_acquire);
    const View view = ViewOf(shard);
    if (view.homes == 0) return std::nullopt;
    bool more = true;
    for (uint32_t b = HomeOf(tag, view.homes); more && b < view.homes + kSpareBuckets; ++b) {
      for (const Entry& slot : view.buckets[b].entries) {
        const uint64_t entry = slot.load(std::memory_order_acquire);
        if (entry == 0) more = false;
        if (entry == 0 || TagIn(entry) != tag) continue;
        const Place place = PlaceOf(entry);
        if (static_cast<const Stretch*>(memory_.At(place.stretch))->word(place.block) == fingerprint) return place;
      }
    }
    // An entry may have come nearer, past the place where we were.
    if (shard.moves.load(std::memory_order_acquire) == moves) return std::nullopt;
  }
}

bool KeyTable::IsFull(const Bucket& bucket) {
  return std::all_of(std::begin(bucket.entries), std::end(bucket.entries),
                     [](const Entry& each) { return each.load(std::memory_order_relaxed) != 0; });
}

bool KeyTable::Put(View view, uint64_t entry) {
  for (uint32_t b = HomeOf(TagIn(entry), view.homes); b < view.homes + kSpareBuckets; ++b) {
    for (Entry& slot : view.buckets[b].entries) {
      if (slot.load(std::memory_order_relaxed) != 0) continue;
      slot.store(entry, std::memory_order_release);
      return true;
    }
  }
  return false;
}

bool KeyTable::Grow(Shard& shard, uint64_t bytes_left) {
  const View old = ViewOf(shard);
  const uint64_t old_bytes = old.homes == 0 ? 0 : ArrayBytes(old.homes);
  uint32_t homes = std::max(kHomesMin, old.homes + std::max(old.homes / 8, 1U));
  // Sparser than this only when someone chose the keys.
  for (; homes < kHomesMax && homes <= kHomesMin + shard.size; homes += std::max(homes / 8, 1U)) {
    const uint64_t bytes = ArrayBytes(homes);
    if (bytes > bytes_left + old_bytes) return false;
    const View view{.buckets = static_cast<Bucket*>(NewArray(bytes)), .homes = homes};
    bool all = true;
    for (uint32_t b = 0; all && old.homes != 0 && b < old.homes + kSpareBuckets; ++b) {
      for (const Entry& slot : old.buckets[b].entries) {
        const uint64_t entry = slot.load(std::memory_order_relaxed);
        all = all && (entry == 0 || Put(view, entry));
      }
    }
    if (!all) {
      FreeArray(view.buckets);
      continue;
    }
    bytes_ += bytes - old_bytes;
    shard.view.store(reinterpret_cast<uint64_t>(view.buckets) >> 6 << 22 | homes, std::memory_order_release);
    if (old.homes != 0) epochs_.Retire({.array = old.buckets});
    return true;
  }
  return false;
}

bool KeyTable::Insert(uint64_t fingerprint, Place place, uint64_t bytes_left) {
  const uint64_t mixed = Mix(fingerprint);
  Shard& shard = ShardOf(mixed);
  View view = ViewOf(shard);
  // Nine in ten full: one in six lookups goes on to the next bucket, which the processor has fetched by then.
  if (shard.size + 1 > uint64_t{view.homes} * kBucketEntries * 9 / 10) Grow(shard, bytes_left);
  view = ViewOf(shard);
  if (view.homes == 0) return false;
  const uint64_t entry = Pack(place, TagOf(mixed));
  if (!Put(view, entry)) {
    if (!Grow(shard, bytes_left) || !Put(ViewOf(shard), entry)) return false;
  }
  ++shard.size;
  ++size_;
  return true;
}

KeyTable::Entry* KeyTable::EntryOf(uint64_t fingerprint, Place place, uint32_t* bucket) const {
  const uint64_t mixed = Mix(fingerprint);
  const uint64_t wanted = Pack(place, TagOf(mixed));
  const View view = ViewOf(ShardOf(mixed));
  for (uint32_t b = HomeOf(TagOf(mixed), view.homes); b < view.homes + kSpareBuckets; ++b) {
    for (Entry& slot : view.buckets[b].entries) {
      if (slot.load(std::memory_order_relaxed) != wanted) continue;
      *bucket = b;
      return &slot;
    }
  }
  STEM_CHECK(false);
  return nullptr;
}

void KeyTable::Move(uint64_t fingerprint, Place from, Place to) {
  uint32_t bucket = 0;
  EntryOf(fingerprint, from, &bucket)->store(Pack(to, TagOf(Mix(fingerprint))), std::memory_order_release);
}

void KeyTable::Erase(uint64_t fingerprint, Place place) {
  uint32_t bucket = 0;
  Entry* hole = EntryOf(fingerprint, place, &bucket);
  Shard& shard = ShardOf(Mix(fingerprint));
  const View view = ViewOf(shard);
  --shard.size;
  --size_;
  // An entry that had to go past full buckets comes back, so that a bucket with room still ends a search.
  const uint32_t end = view.homes + kSpareBuckets;
  for (uint32_t next = bucket + 1; next < end && IsFull(view.buckets[next - 1]); ++next) {
    for (Entry& each : view.buckets[next].entries) {
      const uint64_t entry = each.load(std::memory_order_relaxed);
      if (entry == 0 || HomeOf(TagIn(entry), view.homes) > bucket) continue;
      hole->store(entry, std::memory_order_release);
      shard.moves.fetch_add(1, std::memory_order_release);
      hole = &each;
      bucket = next;
      break;
    }
  }
  hole->store(0, std::memory_order_release);
}

}  // namespace stem
