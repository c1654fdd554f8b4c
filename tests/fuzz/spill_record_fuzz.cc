// Any bytes may lie where a record should: parsing them must end in a status or in spans inside them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/checksum.h"
#include "proto/check.h"
#include "storage/spill/record.h"

namespace {

// The name a record is asked for is taken from its own bytes, or hardly an input would pass.
void Parse(std::span<const std::byte> bytes) {
  stem::BlockName name;
  if (bytes.size() >= 48) std::memcpy(static_cast<void*>(&name), bytes.data() + 16, sizeof(name));
  const auto view = stem::ParseSpillRecord(bytes, name);
  const auto meta = stem::ParseSpillHeader(bytes.first(std::min(bytes.size(), stem::kSpillHeaderBytes)), name);
  if (!view.ok()) return;
  STEM_CHECK(view->payload.size() == view->meta.length);
  STEM_CHECK(view->payload.data() + view->payload.size() == bytes.data() + bytes.size());
  STEM_CHECK(meta.ok() && *meta == view->meta);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  Parse(bytes);
  (void)stem::ParseSpillKey(bytes);
  if (size < stem::kSpillHeaderBytes) return 0;
  // Once more with the header's checksum made right, for what lies behind it.
  std::vector<std::byte> signed_bytes(bytes.begin(), bytes.end());
  const uint64_t check = stem::ChunkHash(std::span(signed_bytes).first(stem::kSpillHeaderBytes - sizeof(uint64_t)));
  std::memcpy(signed_bytes.data() + stem::kSpillHeaderBytes - sizeof(check), &check, sizeof(check));
  Parse(signed_bytes);
  return 0;
}
