#include "storage/spill/page_map.h"

#include <algorithm>
#include <bit>

#include "proto/check.h"

namespace stem {

void PageMap::Resize(uint64_t pages) {
  STEM_CHECK(pages >= end() && pages <= UINT32_MAX);
  words_.resize((pages + 63) / 64);
  pages_ = pages;
  cursor_ = std::min(cursor_, pages);
  too_large_ = UINT32_MAX;
}

uint64_t PageMap::NextFree(uint64_t from, uint64_t to) const {
  while (from < to) {
    const uint64_t free_bits = ~words_[from / 64] >> (from % 64);
    if (free_bits != 0) return std::min(from + std::countr_zero(free_bits), to);
    from = (from / 64 + 1) * 64;
  }
  return to;
}

uint64_t PageMap::NextTaken(uint64_t from, uint64_t to) const {
  while (from < to) {
    const uint64_t taken_bits = words_[from / 64] >> (from % 64);
    if (taken_bits != 0) return std::min(from + std::countr_zero(taken_bits), to);
    from = (from / 64 + 1) * 64;
  }
  return to;
}

std::optional<Extent> PageMap::Find(uint64_t from, uint64_t to, uint32_t pages) const {
  while (true) {
    const uint64_t first = NextFree(from, to);
    if (to - first < pages) return std::nullopt;
    const uint64_t end = NextTaken(first, first + pages);
    if (end == first + pages) return Extent{static_cast<uint32_t>(first), pages};
    from = end;
  }
}

void PageMap::Set(const Extent& extent, bool taken) {
  const uint64_t end = uint64_t{extent.page} + extent.pages;
  for (uint64_t page = extent.page; page < end;) {
    const uint64_t bit = page % 64;
    const uint64_t count = std::min(64 - bit, end - page);
    const uint64_t mask = (count == 64 ? ~0ULL : (1ULL << count) - 1) << bit;
    if (taken) {
      words_[page / 64] |= mask;
    } else {
      words_[page / 64] &= ~mask;
    }
    page += count;
  }
  taken_pages_ += taken ? uint64_t{extent.pages} : -uint64_t{extent.pages};
}

std::optional<Extent> PageMap::Take(uint32_t pages) {
  STEM_CHECK(pages > 0);
  if (pages >= too_large_) return std::nullopt;
  std::optional<Extent> found = Find(cursor_, pages_, pages);
  // Once round: a run that straddles the cursor counts too.
  if (!found.has_value()) found = Find(0, std::min(pages_, cursor_ + pages - 1), pages);
  if (!found.has_value()) {
    too_large_ = pages;
    return std::nullopt;
  }
  Set(*found, true);
  cursor_ = uint64_t{found->page} + pages;
  return found;
}

std::optional<Extents> PageMap::TakePieces(uint32_t pages) {
  STEM_CHECK(free_pages() >= pages);
  Extents pieces;
  // Halves of what did not fit, so that few large holes are used before many small ones.
  uint32_t piece = pages;
  while (pages > 0 && pieces.size() < kExtentsMax) {
    piece = std::min(piece, pages);
    if (const std::optional<Extent> extent = Take(piece)) {
      pieces.push_back(*extent);
      pages -= piece;
    } else {
      piece = (piece + 1) / 2;
    }
  }
  if (pages == 0) return pieces;
  for (const Extent& extent : pieces) Release(extent);
  return std::nullopt;
}

bool PageMap::Mark(const Extent& extent) {
  const uint64_t end = uint64_t{extent.page} + extent.pages;
  if (end > pages_ || NextTaken(extent.page, end) != end) return false;
  Set(extent, true);
  return true;
}

void PageMap::Release(const Extent& extent) {
  const uint64_t end = uint64_t{extent.page} + extent.pages;
  STEM_CHECK(end <= pages_ && NextFree(extent.page, end) == end);
  Set(extent, false);
  too_large_ = UINT32_MAX;
}

uint64_t PageMap::end() const {
  for (uint64_t word = words_.size(); word > 0; --word) {
    if (words_[word - 1] != 0) return word * 64 - std::countl_zero(words_[word - 1]);
  }
  return 0;
}

}  // namespace stem
