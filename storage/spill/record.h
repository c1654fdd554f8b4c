// What the index says of a spilled block, in bytes, and the only parser of them. Nothing read from a disk is believed
// before it came through here. Pure functions, any thread. Source: proto/FORMAT.md, "Spill records".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/container/inlined_vector.h"
#include "proto/block_key.h"
#include "proto/status.h"
#include "storage/spill/spill_store.h"

namespace stem {

inline constexpr uint32_t kSpillVersion = 2;
inline constexpr size_t kSpillKeyBytes = 32;
inline constexpr size_t kExtentsMax = 1024;  // of one record

// A run of pages of the payload file.
struct Extent {
  uint32_t page = 0;   // the first
  uint32_t pages = 0;  // how many

  friend bool operator==(const Extent&, const Extent&) = default;
};

// Nearly always one; several where only smaller holes were left.
using Extents = absl::InlinedVector<Extent, 1>;

// A block on disk: what is known of it, and where its payload lies. The extents follow each other without gaps in the
// payload and hold exactly the pages that it needs.
struct SpillRecord {
  BlockMeta meta;
  Extents extents;

  friend bool operator==(const SpillRecord&, const SpillRecord&) = default;
};

using SpillKey = std::array<char, kSpillKeyBytes>;

// Under which key the index keeps `name`: namespace, then part key.
SpillKey EncodeSpillKey(const BlockName& name);

// Errors: DataLoss (not 32 bytes).
absl::StatusOr<BlockName> ParseSpillKey(std::span<const std::byte> bytes);

// What the index keeps under the key of `record`.
std::string EncodeSpillRecord(const SpillRecord& record);

// The record of `name`.
// Errors: DataLoss (what differs: size, version, checksum, flags, length, extents; the checksum covers the key too).
absl::StatusOr<SpillRecord> ParseSpillRecord(std::span<const std::byte> bytes, const BlockName& name);

}  // namespace stem
