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
  alignas(64) std::byte chunk[kChunkBytes];
  std::optional<uint64_t> held;  // index of the chunk that is in it, proved
  for (const PayloadRange& range : ranges) {
    for (uint64_t at = range.offset; at < range.offset + range.destination.size();) {
      const uint64_t index = at / kChunkBytes;
      const std::span<const std::byte> whole = payload.subspan(index * kChunkBytes, std::min(kChunkBytes, payload.size() - index * kChunkBytes));
      if (held != index) {
        std::memcpy(chunk, whole.data(), whole.size());
        held.reset();
        const uint64_t hash = ChunkHash({chunk, whole.size()});
        if (hash != chunk_hashes[index]) return Differs(absl::StrCat("chunk ", index, "'s hash"), hash, chunk_hashes[index]);
        held = index;
      }
      const uint64_t in_chunk = at % kChunkBytes;
      const uint64_t count = std::min(whole.size() - in_chunk, range.offset + range.destination.size() - at);
      std::memcpy(range.destination.data() + (at - range.offset), chunk + in_chunk, count);
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
