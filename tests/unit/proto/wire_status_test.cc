#include "proto/wire_status.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace stem {
namespace {

TEST(WireStatusTest, EveryCodeSurvivesTheWire) {
  for (uint32_t code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status wire = ToGrpc(status);
    EXPECT_EQ(static_cast<uint32_t>(wire.error_code()), code);
    EXPECT_EQ(wire.error_message(), "why");
    EXPECT_EQ(FromGrpc(wire), status);
    EXPECT_EQ(FromCode(code, "why"), status);
  }
  EXPECT_TRUE(ToGrpc(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpc(grpc::Status::OK).ok());
}

TEST(WireStatusTest, UnknownCodesAreInternalNeverOk) {
  EXPECT_TRUE(FromCode(0, "ignored").ok());
  for (uint32_t code : {17u, 1000u, UINT32_MAX}) {
    const absl::Status status = FromCode(code, "why");
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(std::to_string(code)));
  }
}

}  // namespace
}  // namespace stem
