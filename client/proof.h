// The proof of a payload that another process wrote: namespace, key, generation and length from its header, and the
// digest of the bytes that were really copied.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "client/stem.h"
#include "proto/block_key.h"
#include "proto/status.h"
#include "storage/pool/slot.h"

namespace stem {

// What a slot must hold.
struct Expected {
  BlockName name;  // namespace and part key
  uint64_t generation = 0;
  uint64_t length = 0;  // bytes; fits the slot
};

// Errors: DataLoss naming the field that differs.
absl::Status CheckHeader(const SlotHeader& header, const Expected& expected);

// Copies the slot's payload to `destination` (expected.length bytes) and proves it by header and digest in that one
// pass. `chunk_hashes`: scratch of ChunkCount(expected.length). Errors: DataLoss; then the destination's bytes mean
// nothing.
absl::Status CopyProved(const SlotView<const std::byte>& slot, const Expected& expected,
                        std::span<std::byte> destination, std::span<uint64_t> chunk_hashes);

// The same with the header only, looked at before and after the copy.
absl::Status CopyUnderHeader(const SlotView<const std::byte>& slot, const Expected& expected,
                             std::span<std::byte> destination);

// Copies `ranges`, which lie in the payload. Each is proved by the hashes of the chunks that it touches, which lie in the slot's head and
// are proved by the digest. `chunk_hashes`: scratch of ChunkCount(expected.length). Errors: DataLoss; then no byte means anything.
absl::Status CopyRangesProved(const SlotView<const std::byte>& slot, const Expected& expected, std::span<const PayloadRange> ranges,
                              std::span<uint64_t> chunk_hashes);

}  // namespace stem
