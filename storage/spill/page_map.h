// Which pages of the payload file are taken, and where the next record goes. Space is given out in a ring: from where the
// last record ended on, in the first hole that is large enough. As blocks leave oldest first, the holes lie ahead in one
// piece, and writes are nearly those of a log; but nothing is ever copied to make room, whatever leaves.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "storage/spill/record.h"

namespace stem {

// Threads: one at a time.
class PageMap {
 public:
  // Pages from 0 to `pages` - 1 exist from now on. New ones are free; those that go must be.
  void Resize(uint64_t pages);

  // A free run of `pages` (above 0), now taken; nothing where no hole is that large.
  std::optional<Extent> Take(uint32_t pages);

  // The same in pieces, whatever holes there are, the larger the better: for when the file may not grow. The caller made
  // sure that free_pages() suffices. More than kExtentsMax pieces are not given: nothing then.
  std::optional<Extents> TakePieces(uint32_t pages);

  // For the books of a restart. False, and nothing changes, when a page of `extent` is taken or does not exist.
  bool Mark(const Extent& extent);

  // Gives taken pages back.
  void Release(const Extent& extent);

  uint64_t pages() const { return pages_; }
  uint64_t free_pages() const { return pages_ - taken_pages_; }
  // One behind the last page that is taken.
  uint64_t end() const;

 private:
  // The first free run of `pages` pages within [from, to).
  std::optional<Extent> Find(uint64_t from, uint64_t to, uint32_t pages) const;
  // The first page in [from, to) that is free (or taken); `to` when there is none.
  uint64_t NextFree(uint64_t from, uint64_t to) const;
  uint64_t NextTaken(uint64_t from, uint64_t to) const;
  void Set(const Extent& extent, bool taken);

  std::vector<uint64_t> words_;  // one bit a page: taken
  uint64_t pages_ = 0;
  uint64_t taken_pages_ = 0;
  uint64_t cursor_ = 0;
  uint32_t too_large_ = UINT32_MAX;  // no hole has that many pages; until something is released
};

}  // namespace stem
