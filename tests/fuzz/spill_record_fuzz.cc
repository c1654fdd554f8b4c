// Any bytes may lie where a record should: parsing them must end in a status or in spans inside them.
#include <cstdint>
#include <cstring>
#include <span>

#include "proto/check.h"
#include "storage/spill/record.h"

// The name a record is asked for is taken from its own bytes, or no input would ever pass.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  stem::BlockName name;
  if (size >= 48) std::memcpy(static_cast<void*>(&name), data + 16, sizeof(name));
  const auto view = stem::ParseSpillRecord(bytes, name);
  const auto meta = stem::ParseSpillHeader(bytes.first(size < 112 ? size : 112), name);
  if (view.ok()) {
    STEM_CHECK(view->payload.size() == view->meta.length);
    STEM_CHECK(view->payload.data() + view->payload.size() == bytes.data() + size);
    STEM_CHECK(meta.ok() && *meta == view->meta);
  }
  (void)stem::ParseSpillKey(bytes);
  return 0;
}
