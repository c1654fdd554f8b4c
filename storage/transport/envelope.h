// The bytes by which nodes hand each other transport addresses and region keys: sealed with kind, length and checksum,
// so that truncation and corruption are refused before UCX, which reads out of bounds on garbage, sees them.
// Layout, little-endian: u32 "STXE", u8 version 1, u8 kind, u16 payload length, payload, u64 XXH3-64 of all before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stem {

inline constexpr size_t kEnvelopePayloadBytesMax = 16384;

enum class EnvelopeKind : uint8_t {
  kMessageAddress = 1,  // "host:port" of the UCX listener of a node that serves reads by messages
  kMessageRegion = 2,   // u64 token of a region that is read by messages
  kGetAddress = 3,      // the same of a node whose memory is read by one-sided gets
  kGetRegion = 4,       // packed UCX rkey
};

// `payload` is 1..kEnvelopePayloadBytesMax bytes.
std::string Seal(EnvelopeKind kind, absl::string_view payload);

// The payload inside `sealed`, as a view of it. InvalidArgument: truncated, damaged, too long, not an envelope.
// FailedPrecondition: a whole envelope of another kind or version.
absl::StatusOr<absl::string_view> Unseal(EnvelopeKind kind, absl::string_view sealed);

}  // namespace stem
