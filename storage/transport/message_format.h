// The headers of the two active messages by which memory is read where the lanes have no one-sided get (TCP):
// ReadRequest (its payload further ones, packed; UCX says who asks) and ReadReplies, packed (their bytes follow one
// another as the payload).
// Little-endian, fixed length, in the order of the fields, after a u32 magic and a u32 code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace stem {

inline constexpr unsigned kReadRequestMessage = 1;  // UCX active message ids
inline constexpr unsigned kReadReplyMessage = 2;
inline constexpr size_t kRepliesPerMessageMax = 16;

struct ReadRequest {
  uint64_t op = 0;            // the requester's id, echoed
  uint64_t nonce = 0;         // of the requester's link, echoed: a peer cannot answer for another
  uint64_t region = 0;        // token of the owner's region
  uint64_t offset = 0;        // bytes in the region
  uint64_t bytes = 0;         // > 0
  uint32_t time_left_ms = 0;  // from sending; a request that waited longer at the owner is dropped
};

struct ReadReply {
  uint64_t op = 0;
  uint64_t nonce = 0;
  uint64_t offset = 0;  // of these bytes in the op; replies to one op come in order
  uint64_t bytes = 0;   // in the payload
  absl::StatusCode code = absl::StatusCode::kOk;  // else there are no bytes and the op has failed
};

using ReadRequestBytes = std::array<char, 52>;
using ReadReplyBytes = std::array<char, 40>;

ReadRequestBytes Encode(const ReadRequest& request);
ReadReplyBytes Encode(const ReadReply& reply);

// InvalidArgument: another length, magic, or a field out of range.
absl::StatusOr<ReadRequest> DecodeReadRequest(absl::string_view header);
absl::StatusOr<ReadReply> DecodeReadReply(absl::string_view header);

}  // namespace stem
