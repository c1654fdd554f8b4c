// Payloads as O_DIRECT takes them: pieces of whole pages, each at a page's start in memory. What is not so is copied through
// an aligned buffer; a slot's payload is so but for a tail shorter than a page.
#pragma once

#include <sys/uio.h>

#include <span>
#include <vector>

#include "storage/spill/aligned_buffer.h"
#include "storage/spill/record.h"

namespace stem {

// Memory that whole pages of one payload are read into. Borrows `payload`; not movable, as pieces point into it.
class PagesToFill {
 public:
  explicit PagesToFill(std::span<std::byte> payload);
  PagesToFill(const PagesToFill&) = delete;
  PagesToFill& operator=(const PagesToFill&) = delete;

  // The pieces for `pages` pages from page `first` of the payload, added to `pieces`.
  void Append(uint64_t first, uint64_t pages, std::vector<iovec>& pieces) const;
  // Once all is read: copies what went through the buffer.
  void Finish() const;

 private:
  const std::span<std::byte> payload_;
  const size_t direct_bytes_;  // of the payload, from its start, that are read into place
  const AlignedBuffer rest_;
};

// The same for writing; copies at once.
class PagesToWrite {
 public:
  explicit PagesToWrite(std::span<const std::byte> payload);
  void Append(uint64_t first, uint64_t pages, std::vector<iovec>& pieces) const;

 private:
  const std::span<const std::byte> payload_;
  const size_t direct_bytes_;
  const AlignedBuffer rest_;
};

}  // namespace stem
