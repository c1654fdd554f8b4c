// Everything of the transport that parses bytes of a peer before UCX sees them.
#include <cstddef>
#include <cstdint>

#include "proto/check.h"
#include "storage/transport/envelope.h"
#include "storage/transport/message_format.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t bytes) {
  const absl::string_view input(reinterpret_cast<const char*>(data), bytes);
  for (uint8_t kind = 1; kind <= 4; ++kind) {
    const auto payload = stem::Unseal(static_cast<stem::EnvelopeKind>(kind), input);
    if (payload.ok()) STEM_CHECK(stem::Seal(static_cast<stem::EnvelopeKind>(kind), *payload) == input);
  }
  if (const auto request = stem::DecodeReadRequest(input); request.ok()) {
    const auto again = stem::Encode(*request);
    STEM_CHECK(absl::string_view(again.data(), again.size()) == input);
  }
  if (const auto reply = stem::DecodeReadReply(input); reply.ok()) {
    const auto again = stem::Encode(*reply);
    STEM_CHECK(absl::string_view(again.data(), again.size()) == input);
  }
  return 0;
}
