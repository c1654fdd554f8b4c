#include "storage/spill/record.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr uint32_t kHasParent = 1;

// As on disk, little-endian; the checksum comes last and covers all before it.
struct HeaderFields {
  uint32_t magic = kSpillMagic;
  uint32_t version = kSpillVersion;
  uint32_t flags = 0;
  uint32_t zero = 0;
  BlockName name;
  BlockKey parent;
  uint64_t generation = 0;
  uint64_t length = 0;
  uint64_t digest = 0;
  uint64_t publisher = 0;
  uint64_t hashes_check = 0;
  uint64_t header_check = 0;
};
static_assert(sizeof(HeaderFields) == kSpillHeaderBytes && offsetof(HeaderFields, parent) == 48 &&
              offsetof(HeaderFields, header_check) == 104);

absl::Status Damaged(const BlockName& name, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("spill record ", name.key.ToHex(), ": ", what));
}

uint64_t HeaderCheck(std::span<const std::byte> header) {
  return ChunkHash(header.first(offsetof(HeaderFields, header_check)));
}

// The first bytes of `bytes`, checked but for what follows the header.
absl::StatusOr<HeaderFields> ParseFields(std::span<const std::byte> bytes, const BlockName& name) {
  if (bytes.size() < kSpillHeaderBytes) {
    return Damaged(name, absl::StrCat(bytes.size(), " bytes, a header has ", kSpillHeaderBytes));
  }
  HeaderFields fields;
  std::memcpy(static_cast<void*>(&fields), bytes.data(), sizeof(fields));
  if (fields.magic != kSpillMagic) return Damaged(name, absl::StrCat("magic ", fields.magic, ", not ", kSpillMagic));
  if (fields.version != kSpillVersion) {
    return Damaged(name, absl::StrCat("format version ", fields.version, ", this build reads ", kSpillVersion));
  }
  if (fields.header_check != HeaderCheck(bytes)) return Damaged(name, "header does not match its checksum");
  if (fields.flags > kHasParent || fields.zero != 0) return Damaged(name, absl::StrCat("unknown flags ", fields.flags));
  if (fields.length == 0 || fields.length > kSpillPayloadBytesMax) {
    return Damaged(name, absl::StrCat("length ", fields.length, ", not in 1..", kSpillPayloadBytesMax));
  }
  if (!(fields.name == name)) {
    return Damaged(name, absl::StrCat("holds ", fields.name.key.ToHex(), " of namespace ", fields.name.space.ToHex()));
  }
  return fields;
}

BlockMeta ToMeta(const HeaderFields& fields) {
  BlockMeta meta{.name = fields.name,
                 .parent = std::nullopt,
                 .generation = fields.generation,
                 .length = fields.length,
                 .digest = fields.digest,
                 .publisher = fields.publisher};
  if ((fields.flags & kHasParent) != 0) meta.parent = fields.parent;
  return meta;
}

}  // namespace

SpillKey EncodeSpillKey(const BlockName& name) {
  SpillKey key;
  std::memcpy(key.data(), &name.space, sizeof(name.space));
  std::memcpy(key.data() + sizeof(name.space), &name.key, sizeof(name.key));
  return key;
}

absl::StatusOr<BlockName> ParseSpillKey(std::span<const std::byte> bytes) {
  if (bytes.size() != kSpillKeyBytes) {
    return absl::DataLossError(absl::StrCat("spill key of ", bytes.size(), " bytes, not ", kSpillKeyBytes));
  }
  BlockName name;
  std::memcpy(static_cast<void*>(&name.space), bytes.data(), sizeof(name.space));
  std::memcpy(static_cast<void*>(&name.key), bytes.data() + sizeof(name.space), sizeof(name.key));
  return name;
}

SpillHeader EncodeSpillHeader(const BlockMeta& meta, std::span<const uint64_t> chunk_hashes) {
  STEM_CHECK(chunk_hashes.size() == ChunkCount(meta.length));
  HeaderFields fields;
  fields.flags = meta.parent.has_value() ? kHasParent : 0;
  fields.name = meta.name;
  fields.parent = meta.parent.value_or(BlockKey{});
  fields.generation = meta.generation;
  fields.length = meta.length;
  fields.digest = meta.digest;
  fields.publisher = meta.publisher;
  fields.hashes_check = ChunkHash(std::as_bytes(chunk_hashes));
  fields.header_check = HeaderCheck(std::as_bytes(std::span(&fields, 1)));
  SpillHeader header;
  std::memcpy(header.data(), &fields, sizeof(fields));
  return header;
}

absl::StatusOr<BlockMeta> ParseSpillHeader(std::span<const std::byte> bytes, const BlockName& name) {
  if (bytes.size() > kSpillHeaderBytes) {
    return Damaged(name, absl::StrCat(bytes.size(), " bytes in the index, a header has ", kSpillHeaderBytes));
  }
  STEM_ASSIGN(const HeaderFields fields, ParseFields(bytes, name));
  return ToMeta(fields);
}

absl::StatusOr<SpillRecordView> ParseSpillRecord(std::span<const std::byte> bytes, const BlockName& name) {
  STEM_ASSIGN(const HeaderFields fields, ParseFields(bytes, name));
  const uint64_t expected_bytes = SpillRecordBytes(fields.length);
  if (bytes.size() != expected_bytes) {
    return Damaged(name, absl::StrCat("torn: ", bytes.size(), " bytes, should be ", expected_bytes));
  }
  SpillRecordView view;
  view.meta = ToMeta(fields);
  view.chunk_hash_bytes = bytes.subspan(kSpillHeaderBytes, ChunkCount(fields.length) * sizeof(uint64_t));
  view.payload = bytes.last(fields.length);
  if (fields.hashes_check != ChunkHash(view.chunk_hash_bytes)) {
    return Damaged(name, "chunk hashes do not match their checksum");
  }
  return view;
}

}  // namespace stem
