// The bytes of a spilled block on disk, and the only parser of them. Nothing read from a disk is believed before it
// came through here. Pure functions, any thread. Source: proto/FORMAT.md, "Spill records".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/checksum.h"
#include "proto/block_key.h"
#include "proto/status.h"
#include "storage/spill/spill_store.h"

namespace stem {

inline constexpr uint32_t kSpillMagic = 0x50535453;  // "STSP"
inline constexpr uint32_t kSpillVersion = 1;
inline constexpr size_t kSpillKeyBytes = 32;

using SpillKey = std::array<char, kSpillKeyBytes>;
using SpillHeader = std::array<std::byte, kSpillHeaderBytes>;

// Where the record of `name` is kept: namespace, then part key.
SpillKey EncodeSpillKey(const BlockName& name);

// Errors: DataLoss (not 32 bytes).
absl::StatusOr<BlockName> ParseSpillKey(std::span<const std::byte> bytes);

// The header of the record of `meta`; `chunk_hashes` has ChunkCount(meta.length) entries.
SpillHeader EncodeSpillHeader(const BlockMeta& meta, std::span<const uint64_t> chunk_hashes);

// What an entry of the index says; `bytes` is a header alone, and must be that of `name`.
// Errors: DataLoss (what differs: size, magic, version, checksum, flags, length, name).
absl::StatusOr<BlockMeta> ParseSpillHeader(std::span<const std::byte> bytes, const BlockName& name);

// A record taken apart. The spans point into what was parsed; hashes are bytes, as they need not be aligned.
struct SpillRecordView {
  BlockMeta meta;
  std::span<const std::byte> chunk_hash_bytes;
  std::span<const std::byte> payload;
};

// Takes apart the record of `name`. The payload itself is proven by its digest, not here.
// Errors: DataLoss, as ParseSpillHeader, and chunk hashes that do not match the header.
absl::StatusOr<SpillRecordView> ParseSpillRecord(std::span<const std::byte> bytes, const BlockName& name);

}  // namespace stem
