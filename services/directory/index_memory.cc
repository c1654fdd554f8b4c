#include "services/directory/index_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "proto/check.h"

namespace stem {
namespace {

// In units; an eighth apart or less where stretches lie (1 + words / 2), then coarser for long lists of holders.
constexpr std::array<uint16_t, 32> kClassUnits = {2,  3,  4,  5,  6,  7,  8,  9,  11,  13,  15,  17,  19,  21,   25,   29,
                                                  33, 37, 41, 49, 57, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 2049, 4095};
constexpr size_t kSmallBytes = 32 << 20;

constexpr uint32_t RecordsOf(size_t size_class) {
  return static_cast<uint32_t>(IndexMemory::kSlabBytes / IndexMemory::kUnitBytes / kClassUnits[size_class]);
}

}  // namespace

void* MapLazily(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  STEM_CHECK(memory != MAP_FAILED);
  return memory;
}

void UnmapLazy(void* memory, size_t bytes) {
  if (bytes != 0) munmap(memory, bytes);
}

IndexMemory::IndexMemory(uint64_t bytes_max)
    : bytes_max_(std::min(bytes_max, kBytesMax)), base_(static_cast<std::byte*>(MapLazily(bytes_max_))), slabs_(1) {
  // Lookups read at random: huge pages save most of their address translations. A small index does without: the last page,
  // partly used, would be a tenth of it.
  if (bytes_max_ > kSmallBytes) madvise(base_ + kSmallBytes, bytes_max_ - kSmallBytes, MADV_HUGEPAGE);
  for (auto& heads : heads_) heads.assign(kClassUnits.size(), kNone);
}

IndexMemory::~IndexMemory() { UnmapLazy(base_, bytes_max_); }

size_t IndexMemory::ClassOf(size_t bytes) {
  const size_t units = (bytes + kUnitBytes - 1) / kUnitBytes;
  const auto found = std::lower_bound(kClassUnits.begin(), kClassUnits.end(), units);
  STEM_CHECK(found != kClassUnits.end());
  return static_cast<size_t>(found - kClassUnits.begin());
}

size_t IndexMemory::RoundUp(size_t bytes) { return kClassUnits[ClassOf(bytes)] * kUnitBytes; }

IndexRef IndexMemory::RefOf(size_t slab, uint32_t record) const {
  return static_cast<IndexRef>(slab * (kSlabBytes / kUnitBytes) + record * kClassUnits[slabs_[slab].size_class]);
}

void IndexMemory::Link(uint32_t slab) {
  Slab& each = slabs_[slab];
  uint32_t& head = Head(each);
  each.previous = kNone;
  each.next = head;
  if (head != kNone) slabs_[head].previous = slab;
  head = slab;
}

void IndexMemory::Unlink(uint32_t slab) {
  Slab& each = slabs_[slab];
  (each.previous == kNone ? Head(each) : slabs_[each.previous].next) = each.next;
  if (each.next != kNone) slabs_[each.next].previous = each.previous;
}

IndexRef IndexMemory::Allocate(Kind kind, size_t bytes, bool slab_allowed) {
  const size_t size_class = ClassOf(bytes);
  uint32_t slab = heads_[static_cast<size_t>(kind)][size_class];
  if (slab == kNone) {
    if (!slab_allowed) return 0;
    if (!empty_.empty()) {
      slab = empty_.back();
      empty_.pop_back();
    } else {
      if ((slabs_.size() + 1) * kSlabBytes > bytes_max_) return 0;
      slab = static_cast<uint32_t>(slabs_.size());
      slabs_.emplace_back();
    }
    slabs_[slab] = {.kind = kind, .size_class = static_cast<uint8_t>(size_class)};
    Link(slab);
  }
  Slab& each = slabs_[slab];
  uint16_t record = each.free;
  if (record != UINT16_MAX) {
    std::memcpy(&each.free, static_cast<std::byte*>(At(RefOf(slab, record))) + 8, sizeof(each.free));
  } else {
    record = each.used++;
  }
  ++each.live;
  if (each.free == UINT16_MAX && each.used == RecordsOf(size_class)) Unlink(slab);
  return RefOf(slab, record);
}

void IndexMemory::Free(IndexRef ref) {
  const auto slab = static_cast<uint32_t>(ref / (kSlabBytes / kUnitBytes));
  Slab& each = slabs_[slab];
  const bool was_full = each.free == UINT16_MAX && each.used == RecordsOf(each.size_class);
  std::byte* record = static_cast<std::byte*>(At(ref));
  std::memset(record, 0, 8);
  std::memcpy(record + 8, &each.free, sizeof(each.free));
  each.free = static_cast<uint16_t>(ref % (kSlabBytes / kUnitBytes) / kClassUnits[each.size_class]);
  --each.live;
  if (was_full) Link(slab);
  if (each.live > 0) return;
  Unlink(slab);
  empty_.push_back(slab);
}

}  // namespace stem
