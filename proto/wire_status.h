// absl::Status to and from gRPC's, and the numbers that session messages carry. The codes are the same.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace stem {

grpc::Status ToGrpc(const absl::Status& status);

absl::Status FromGrpc(const grpc::Status& status);

// A code that came in a message: unknown numbers become Internal, never OK unless 0.
absl::Status FromCode(uint32_t code, absl::string_view message);

}  // namespace stem
