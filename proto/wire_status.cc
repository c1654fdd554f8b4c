#include "proto/wire_status.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {
constexpr uint32_t kCodeMax = 16;  // UNAUTHENTICATED, the last that gRPC and abseil define
}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

absl::Status FromGrpc(const grpc::Status& status) {
  return FromCode(static_cast<uint32_t>(status.error_code()), status.error_message());
}

absl::Status FromCode(uint32_t code, absl::string_view message) {
  if (code == 0) return absl::OkStatus();
  if (code > kCodeMax) return absl::InternalError(absl::StrCat("unknown status code ", code, ": ", message));
  return absl::Status(static_cast<absl::StatusCode>(code), message);
}

}  // namespace stem
