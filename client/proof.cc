#include "client/proof.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"

namespace stem {
namespace {

absl::Status Differs(absl::string_view field, const auto& found, const auto& expected) {
  return absl::DataLossError(absl::StrCat("proof failed: the slot's ", field, " is ", found, ", expected ", expected));
}

constexpr uint64_t kRunBytesMax = 64 * kChunkBytes;  // hashes on the stack; long enough to be written past the cache

absl::Status CheckChunk(uint64_t index, uint64_t found, uint64_t expected) {
  return found == expected ? absl::OkStatus() : Differs(absl::StrCat("chunk ", index, "'s hash"), found, expected);
}

// Whole chunks, from chunk `first` on, straight to where they are wanted.
absl::Status CopyRun(std::span<std::byte> to, std::span<const std::byte> from, std::span<const uint64_t> expected, uint64_t first) {
  uint64_t found[kRunBytesMax / kChunkBytes];
  const size_t chunks = from.size() / kChunkBytes;
  CopyChunks(to, from, std::span(found).first(chunks));
  for (size_t i = 0; i < chunks; ++i) STEM_TRY(CheckChunk(first + i, found[i], expected[i]));
  return absl::OkStatus();
}

// The chunk of which a part was wanted last: the next part may be of the same.
class ChunkBuffer {
 public:
  ChunkBuffer(std::span<const std::byte> payload, std::span<const uint64_t> hashes) : payload_(payload), hashes_(hashes) {}

  // Its bytes, until the next call.
  absl::StatusOr<std::span<const std::byte>> Prove(uint64_t index) {
    const uint64_t begin = index * kChunkBytes;
    const std::span<const std::byte> from = payload_.subspan(begin, std::min(kChunkBytes, payload_.size() - begin));
    const std::span<std::byte> held = std::span(bytes_).first(from.size());
    if (held_ == index) return held;
    std::memcpy(held.data(), from.data(), from.size());
    held_.reset();
    STEM_TRY(CheckChunk(index, ChunkHash(held), hashes_[index]));
    held_ = index;
    return held;
  }

 private:
  const std::span<const std::byte> payload_;
  const std::span<const uint64_t> hashes_;
  alignas(64) std::byte bytes_[kChunkBytes];
  std::optional<uint64_t> held_;
};

}  // namespace

absl::Status CheckHeader(const SlotHeader& header, const Expected& expected) {
  if (header.magic != kSlotMagic) return Differs("magic", header.magic, kSlotMagic);
  if (header.version != kSlotVersion) return Differs("format version", header.version, kSlotVersion);
  if (header.name.space != expected.name.space) {
    return Differs("namespace", header.name.space.ToHex(), expected.name.space.ToHex());
  }
  if (header.name.key != expected.name.key) return Differs("key", header.name.key.ToHex(), expected.name.key.ToHex());
  if (header.generation != expected.generation) return Differs("generation", header.generation, expected.generation);
  if (header.length != expected.length) return Differs("length", header.length, expected.length);
  return absl::OkStatus();
}

absl::Status CopyProved(const SlotView<const std::byte>& slot, const Expected& expected,
                        std::span<std::byte> destination, std::span<uint64_t> chunk_hashes) {
  const SlotHeader header = slot.header();
  STEM_TRY(CheckHeader(header, expected));
  const uint64_t digest = CopyAndDigest(destination, slot.payload(expected.length), expected.name, chunk_hashes);
  if (digest != header.digest) return Differs("digest", header.digest, digest);
  return absl::OkStatus();
}

absl::Status CopyRangesProved(const SlotView<const std::byte>& slot, const Expected& expected, std::span<const PayloadRange> ranges,
                              std::span<uint64_t> chunk_hashes) {
  const SlotHeader header = slot.header();
  STEM_TRY(CheckHeader(header, expected));
  const std::span<const uint64_t> found = slot.chunk_hashes(chunk_hashes.size());
  std::memcpy(chunk_hashes.data(), found.data(), found.size_bytes());  // what is proved is what is used
  const uint64_t digest = DigestOfChunks(expected.name, expected.length, chunk_hashes);
  if (digest != header.digest) return Differs("digest", header.digest, digest);
  const std::span<const std::byte> payload = slot.payload(expected.length);
  ChunkBuffer buffer(payload, chunk_hashes);
  for (const PayloadRange& range : ranges) {
    std::span<std::byte> to = range.destination;
    for (uint64_t at = range.offset; !to.empty();) {
      const uint64_t in_chunk = at % kChunkBytes;
      uint64_t count = std::min(to.size(), kRunBytesMax) / kChunkBytes * kChunkBytes;
      if (in_chunk == 0 && count > 0) {
        STEM_TRY(CopyRun(to.first(count), payload.subspan(at, count), chunk_hashes.subspan(at / kChunkBytes), at / kChunkBytes));
      } else {
        STEM_ASSIGN(const std::span<const std::byte> chunk, buffer.Prove(at / kChunkBytes));
        count = std::min(chunk.size() - in_chunk, to.size());
        std::memcpy(to.data(), chunk.data() + in_chunk, count);
      }
      to = to.subspan(count);
      at += count;
    }
  }
  return absl::OkStatus();
}

absl::Status CopyUnderHeader(const SlotView<const std::byte>& slot, const Expected& expected,
                             std::span<std::byte> destination) {
  STEM_TRY(CheckHeader(slot.header(), expected));
  CopyPayload(destination, slot.payload(expected.length));
  return CheckHeader(slot.header(), expected);
}

}  // namespace stem
