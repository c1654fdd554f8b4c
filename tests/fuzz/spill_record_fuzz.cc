// Any bytes may lie in the index: parsing them must end in a status, or in a record that encodes to the same bytes.
#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "kernels/checksum.h"
#include "proto/check.h"
#include "storage/spill/record.h"

namespace {

void Parse(std::span<const std::byte> bytes, const stem::BlockName& name) {
  const auto record = stem::ParseSpillRecord(bytes, name);
  if (!record.ok()) return;
  uint64_t pages = 0;
  for (const stem::Extent& extent : record->extents) pages += extent.pages;
  STEM_CHECK(pages == stem::SpillPages(record->meta.length));
  const std::string encoded = stem::EncodeSpillRecord(*record);
  const auto again = stem::ParseSpillRecord(std::as_bytes(std::span(encoded)), name);
  STEM_CHECK(again.ok() && *again == *record);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const stem::BlockName name{};
  Parse(bytes, name);
  (void)stem::ParseSpillKey(bytes);
  if (size < sizeof(uint64_t)) return 0;
  // Once more with the checksum made right, for what lies behind it.
  std::vector<std::byte> signed_bytes(bytes.begin(), bytes.end());
  const stem::SpillKey key = stem::EncodeSpillKey(name);
  const std::array<uint64_t, 2> parts = {stem::ChunkHash(std::as_bytes(std::span(key))),
                                         stem::ChunkHash(bytes.first(size - sizeof(uint64_t)))};
  const uint64_t check = stem::ChunkHash(std::as_bytes(std::span(parts)));
  std::memcpy(signed_bytes.data() + size - sizeof(check), &check, sizeof(check));
  Parse(signed_bytes, name);
  return 0;
}
