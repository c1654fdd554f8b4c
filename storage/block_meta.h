// What the node keeps of a payload besides its bytes, whichever tier it is in.
#pragma once

#include <cstdint>
#include <optional>

#include "proto/block_key.h"

namespace stem {

struct BlockMeta {
  BlockName name;                  // namespace and part key
  std::optional<BlockKey> parent;  // part key of the block before it; absent = it starts its chain
  uint64_t generation = 0;         // of its slot in DRAM; of a record on SSD: of the slot it was spilled from
  uint64_t length = 0;             // payload bytes
  uint64_t digest = 0;             // kernels/checksum.h
  uint64_t publisher = 0;          // session that published it
  // Of a record on SSD: 0 = its bytes are the payload; else what they are to be decoded by, whose length and digest are then the stored bytes'.
  uint16_t encoding = 0;

  friend bool operator==(const BlockMeta&, const BlockMeta&) = default;
};

// One record on SSD. A block that left and came back has another under its name, of another generation.
struct SpillRecordId {
  BlockName name;
  uint64_t generation = 0;

  friend bool operator==(const SpillRecordId&, const SpillRecordId&) = default;
};

inline constexpr uint64_t kSpillPageBytes = 4096;   // payloads on SSD start and end at pages
inline constexpr uint64_t kSpillEntryBytes = 256;  // a record's part of the index on disk, with what a log and merging add

// Pages that a payload takes on SSD.
constexpr uint64_t SpillPages(uint64_t length) { return (length + kSpillPageBytes - 1) / kSpillPageBytes; }

// Bytes that a payload takes on SSD. What quotas count.
constexpr uint64_t SpillRecordBytes(uint64_t length) { return SpillPages(length) * kSpillPageBytes + kSpillEntryBytes; }

}  // namespace stem
