#include "storage/spill/record.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/checksum.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr uint16_t kHasParent = 1;

// As on disk, little-endian; extents follow, then the checksum of the key and of all before it.
struct Fields {
  uint16_t version = kSpillVersion;
  uint16_t flags = 0;
  uint16_t extents = 0;
  uint16_t encoding = 0;
  BlockKey parent;
  uint64_t generation = 0;
  uint64_t length = 0;
  uint64_t digest = 0;
  uint64_t publisher = 0;
};
static_assert(sizeof(Fields) == 56 && offsetof(Fields, parent) == 8 && offsetof(Fields, publisher) == 48);
static_assert(sizeof(Extent) == 8);

absl::Status Damaged(const BlockName& name, absl::string_view what) {
  return absl::DataLossError(absl::StrCat("spill record ", name.key.ToHex(), ": ", what));
}

// Of the key and of what lies before the checksum, `bytes`.
uint64_t CheckOf(const BlockName& name, std::span<const std::byte> bytes) {
  const SpillKey key = EncodeSpillKey(name);
  const std::array<uint64_t, 2> parts = {ChunkHash(std::as_bytes(std::span(key))), ChunkHash(bytes)};
  return ChunkHash(std::as_bytes(std::span(parts)));
}

absl::Status CheckExtents(const SpillRecord& record) {
  uint64_t pages = 0;
  for (const Extent& extent : record.extents) {
    if (extent.pages == 0 || uint64_t{extent.page} + extent.pages > UINT32_MAX) {
      return Damaged(record.meta.name, absl::StrCat("extent of ", extent.pages, " pages at ", extent.page));
    }
    pages += extent.pages;
  }
  if (pages == SpillPages(record.meta.length)) return absl::OkStatus();
  return Damaged(record.meta.name, absl::StrCat(pages, " pages, ", record.meta.length, " bytes need ",
                                                SpillPages(record.meta.length)));
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

std::string EncodeSpillRecord(const SpillRecord& record) {
  STEM_CHECK(!record.extents.empty() && record.extents.size() <= kExtentsMax);
  Fields fields;
  fields.flags = record.meta.parent.has_value() ? kHasParent : 0;
  fields.extents = static_cast<uint16_t>(record.extents.size());
  fields.encoding = record.meta.encoding;
  fields.parent = record.meta.parent.value_or(BlockKey{});
  fields.generation = record.meta.generation;
  fields.length = record.meta.length;
  fields.digest = record.meta.digest;
  fields.publisher = record.meta.publisher;
  std::string bytes(sizeof(fields) + record.extents.size() * sizeof(Extent), '\0');
  std::memcpy(bytes.data(), &fields, sizeof(fields));
  std::memcpy(bytes.data() + sizeof(fields), record.extents.data(), record.extents.size() * sizeof(Extent));
  const uint64_t check = CheckOf(record.meta.name, std::as_bytes(std::span(bytes)));
  bytes.append(reinterpret_cast<const char*>(&check), sizeof(check));
  return bytes;
}

absl::StatusOr<SpillRecord> ParseSpillRecord(std::span<const std::byte> bytes, const BlockName& name) {
  Fields fields;
  uint64_t check = 0;
  if (bytes.size() < sizeof(fields) + sizeof(Extent) + sizeof(check)) {
    return Damaged(name, absl::StrCat("only ", bytes.size(), " bytes in the index"));
  }
  std::memcpy(static_cast<void*>(&fields), bytes.data(), sizeof(fields));
  std::memcpy(&check, bytes.last(sizeof(check)).data(), sizeof(check));
  if (fields.version != kSpillVersion) {
    return Damaged(name, absl::StrCat("format version ", fields.version, ", this build reads ", kSpillVersion));
  }
  if (check != CheckOf(name, bytes.first(bytes.size() - sizeof(check)))) {
    return Damaged(name, "does not match its checksum");
  }
  if (fields.flags > kHasParent) return Damaged(name, absl::StrCat("unknown flags ", fields.flags));
  if (fields.length == 0 || fields.length > kSpillPayloadBytesMax) {
    return Damaged(name, absl::StrCat("length ", fields.length, ", not in 1..", kSpillPayloadBytesMax));
  }
  if (fields.extents == 0 || fields.extents > kExtentsMax ||
      bytes.size() != sizeof(fields) + fields.extents * sizeof(Extent) + sizeof(check)) {
    return Damaged(name, absl::StrCat(fields.extents, " extents in ", bytes.size(), " bytes"));
  }
  SpillRecord record;
  record.meta = {.name = name,
                 .parent = std::nullopt,
                 .generation = fields.generation,
                 .length = fields.length,
                 .digest = fields.digest,
                 .publisher = fields.publisher,
                 .encoding = fields.encoding};
  if ((fields.flags & kHasParent) != 0) record.meta.parent = fields.parent;
  record.extents.resize(fields.extents);
  std::memcpy(static_cast<void*>(record.extents.data()), bytes.data() + sizeof(fields), fields.extents * sizeof(Extent));
  STEM_TRY(CheckExtents(record));
  return record;
}

}  // namespace stem
