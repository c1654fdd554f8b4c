// What the node keeps of a payload besides its bytes, whichever tier it is in.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/checksum.h"
#include "proto/block_key.h"

namespace stem {

struct BlockMeta {
  BlockName name;                  // namespace and part key
  std::optional<BlockKey> parent;  // part key of the block before it; absent = it starts its chain
  uint64_t generation = 0;         // of its slot in DRAM; of a record on SSD: of the slot it was spilled from
  uint64_t length = 0;             // payload bytes
  uint64_t digest = 0;             // kernels/checksum.h
  uint64_t publisher = 0;          // session that published it

  friend bool operator==(const BlockMeta&, const BlockMeta&) = default;
};

inline constexpr size_t kSpillHeaderBytes = 112;

// Bytes of a payload's record on SSD: header, chunk hashes, payload. What quotas count. Source: proto/FORMAT.md.
constexpr uint64_t SpillRecordBytes(uint64_t length) {
  return kSpillHeaderBytes + ChunkCount(length) * sizeof(uint64_t) + length;
}

}  // namespace stem
