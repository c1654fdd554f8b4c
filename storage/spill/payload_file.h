// The file that payloads lie in: read and written past the page cache, in runs of whole pages, straight from and into the
// memory of slots. Knows no records.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "proto/status.h"
#include "storage/block_meta.h"

namespace stem {

// Threads: reads and writes from any, beside everything; the rest one at a time.
class PayloadFile {
 public:
  // Opens or creates `path`. Without `direct_io` the page cache is used, as some file systems offer nothing else.
  // Errors: Unavailable (what the system said).
  static absl::StatusOr<std::unique_ptr<PayloadFile>> Open(const std::string& path, bool direct_io);

  ~PayloadFile();
  PayloadFile(const PayloadFile&) = delete;
  PayloadFile& operator=(const PayloadFile&) = delete;

  uint64_t pages() const { return pages_.load(std::memory_order_relaxed); }

  // Makes the file `pages` long, with room on the disk for all of it. Errors: ResourceExhausted, Unavailable.
  absl::Status Grow(uint64_t pages);
  // Gives the pages from `pages` on back to the disk. Errors: Unavailable.
  absl::Status Truncate(uint64_t pages);

  // Transfers `memory` to or from the pages that start at `page`, as one request. Every piece starts at and has whole
  // pages. The pieces are used up on the way. Errors: Unavailable (disk failed), of Read also DataLoss (the disk cannot give
  // some of these bytes back, or the file ends before).
  absl::Status Read(uint64_t page, std::span<iovec> memory) const;
  absl::Status Write(uint64_t page, std::span<iovec> memory);

  // What was written survives a power loss. Errors: Unavailable.
  absl::Status Sync();

  uint64_t write_bytes() const { return write_bytes_.load(std::memory_order_relaxed); }

 private:
  PayloadFile(std::string path, int fd, uint64_t pages) : path_(std::move(path)), fd_(fd), pages_(pages) {}
  absl::Status Failed(const char* doing, int error) const;

  const std::string path_;
  const int fd_;
  std::atomic<uint64_t> pages_;
  std::atomic<uint64_t> write_bytes_{0};
};

}  // namespace stem
