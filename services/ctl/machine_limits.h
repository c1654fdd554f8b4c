// What this machine does without Stemcache: the limits beside which bench figures stand. Measured in the run that quotes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "proto/status.h"

namespace stem {

// One thread's copy of cold memory, one call per block, in bytes per second. `source` and `target` have the same size, many times
// the cache's, and hold whole blocks.
double MemcpyRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes);
// The same with stores that pass the cache by.
double StreamedCopyRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes);

// One connection over loopback TCP between two threads: every block of `source` is sent, and received into `target`.
// Errors: Unavailable (the system refuses a socket).
absl::StatusOr<double> TcpRate(std::span<const std::byte> source, std::span<std::byte> target, size_t block_bytes);

// One thread reads `bytes` from a file in `dir`, block by block in no order, past the page cache; the file is made and removed here.
// Errors: Unavailable (the file system refuses, direct reads for one).
absl::StatusOr<double> DiskReadRate(const std::string& dir, size_t bytes, size_t block_bytes);

}  // namespace stem
