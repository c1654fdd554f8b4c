// Where the prefix index keeps its variable-sized records: one reservation of address space, cut into slabs of one
// record size each, named by 32-bit references. A hard limit: nothing is allocated beyond it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace stem {

// Zeroed memory of the process, nothing of it used yet. The process ends when the system refuses, as for any allocation.
void* MapLazily(size_t bytes);
void UnmapLazy(void* memory, size_t bytes);

// `count` zeroed T, whose memory is taken as it is touched. T is zero when its bytes are.
template <typename T>
class LazyArray {
 public:
  explicit LazyArray(size_t count) : bytes_(count * sizeof(T)), items_(static_cast<T*>(MapLazily(bytes_))) {}
  ~LazyArray() { UnmapLazy(items_, bytes_); }
  LazyArray(const LazyArray&) = delete;
  LazyArray& operator=(const LazyArray&) = delete;

  T& operator[](size_t i) const { return items_[i]; }

 private:
  const size_t bytes_;
  T* const items_;
};

// A record, in units of 16 bytes from the start of the reservation; 0 = none.
using IndexRef = uint32_t;

class IndexMemory {
 public:
  static constexpr uint64_t kUnitBytes = 16;
  static constexpr uint64_t kSlabBytes = 64 << 10;
  static constexpr uint64_t kBytesMax = kUnitBytes << 32;
  static constexpr size_t kRecordBytesMax = kSlabBytes - kUnitBytes;

  // What a record is, so that a sweep visits one kind.
  enum class Kind : uint8_t { kStretch, kHolders };

  // Reserves `bytes_max` (at most kBytesMax) of address space; memory is taken as it is used.
  explicit IndexMemory(uint64_t bytes_max);
  ~IndexMemory();
  IndexMemory(const IndexMemory&) = delete;
  IndexMemory& operator=(const IndexMemory&) = delete;

  // Any thread.
  void* At(IndexRef ref) const { return base_ + ref * kUnitBytes; }

  // The rest: one thread at a time.

  // Bytes that a record of `bytes` (1..kRecordBytesMax) takes: what it may grow to in place.
  static size_t RoundUp(size_t bytes);
  // Not initialised. 0 when neither the limit nor `slabs_allowed` leaves room.
  IndexRef Allocate(Kind kind, size_t bytes, bool slab_allowed);
  // The first 8 bytes of the record become 0, until it is allocated again.
  void Free(IndexRef ref);

  // Slabs ever used, of any kind; their records are visited by number.
  size_t slabs() const { return slabs_.size(); }
  // Calls visit(IndexRef) for every record of `kind` in slab number `slab`, freed ones included. `visit` may allocate, not
  // free.
  template <typename Visit>
  void ForEach(Kind kind, size_t slab, Visit visit) const {
    if (slabs_[slab].live == 0 || slabs_[slab].kind != kind) return;
    for (uint32_t record = 0, used = slabs_[slab].used; record < used; ++record) visit(RefOf(slab, record));
  }

  // Of slabs that hold a record.
  uint64_t bytes() const { return (slabs_.size() - empty_.size() - 1) * kSlabBytes; }

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  // All records of a slab have one size. Slabs with room are linked by kind and size.
  struct Slab {
    Kind kind = Kind::kStretch;
    uint8_t size_class = 0;
    uint16_t live = 0;
    uint16_t used = 0;         // records ever handed out; those beyond are untouched
    uint16_t free = UINT16_MAX;  // first of the freed ones, linked
    uint32_t next = kNone;
    uint32_t previous = kNone;
  };

  static size_t ClassOf(size_t bytes);
  IndexRef RefOf(size_t slab, uint32_t record) const;
  uint32_t& Head(const Slab& slab) { return heads_[static_cast<size_t>(slab.kind)][slab.size_class]; }
  void Link(uint32_t slab);
  void Unlink(uint32_t slab);

  const uint64_t bytes_max_;
  std::byte* const base_;
  std::vector<Slab> slabs_;      // the first is not used: reference 0 is none
  std::vector<uint32_t> empty_;  // slabs without a record
  std::vector<uint32_t> heads_[2];
};

}  // namespace stem
