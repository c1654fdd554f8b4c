// The digest of a payload: chunks of 4 KiB are hashed apart, so threads, instruction sets and GPUs all reach the
// same value and whole chunks prove a sub-range. Source: proto/FORMAT.md, "Payload digest".
// Pure functions, any thread, no allocation. The fastest instruction set of the machine is chosen once, at load.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "proto/block_key.h"

namespace stem {

class Stream;

inline constexpr size_t kChunkBytes = 4096;

// Chunk hashes of a payload of `bytes`: the last chunk may be short; an empty payload has none.
constexpr size_t ChunkCount(uint64_t bytes) { return bytes / kChunkBytes + (bytes % kChunkBytes != 0 ? 1 : 0); }

// XXH3-64 of one chunk (or of any run of bytes).
uint64_t ChunkHash(std::span<const std::byte> chunk);

// Digest of a payload of `length` bytes whose chunk hashes are `chunk_hashes` (ChunkCount(length) entries).
uint64_t DigestOfChunks(const BlockName& name, uint64_t length, std::span<const uint64_t> chunk_hashes);

// Hashes every chunk of `payload` into `chunk_hashes` (ChunkCount(payload.size()) entries) and returns the digest.
uint64_t Digest(const BlockName& name, std::span<const std::byte> payload, std::span<uint64_t> chunk_hashes);

// Copies `src` to `dst` (same size, no overlap) and takes the digest in the same pass over what was written: another
// process may change `src` meanwhile, and digest and chunk hashes are still those of the bytes in `dst`.
uint64_t CopyAndDigest(std::span<std::byte> dst, std::span<const std::byte> src, const BlockName& name,
                       std::span<uint64_t> chunk_hashes);

// The same copy and hashes, of whole chunks of a payload, whose digest is known.
void CopyChunks(std::span<std::byte> dst, std::span<const std::byte> src, std::span<uint64_t> chunk_hashes);

// The same copy without a digest: payloads of 64 KiB and more are written past the cache.
void CopyPayload(std::span<std::byte> dst, std::span<const std::byte> src);

// Where a GPU puts a digest: GPU or pinned memory, borrowed until the work is over.
struct DigestOutput {
  std::span<uint64_t> message;  // DigestMessageWords() words: space, key, length, then the chunk hashes
  uint64_t* digest = nullptr;
};

// Words that the digest covers, for a payload of `bytes`.
constexpr size_t DigestMessageWords(uint64_t bytes) { return 5 + ChunkCount(bytes); }

// Queues the same digest of a payload in GPU (or pinned) memory on `stream`; any alignment, multiples of 8 are faster.
// Errors: InvalidArgument (size of the message, null), Internal (launch refused), Unimplemented (built without CUDA).
absl::Status Digest(const BlockName& name, std::span<const std::byte> payload, const DigestOutput& output,
                    const Stream& stream);

}  // namespace stem
