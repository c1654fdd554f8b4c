#include "proto/validate_levers.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr BlockKey kFirst = {{.low = 1, .high = 2}};
constexpr BlockKey kLast = {{.low = 3, .high = 4}};

std::string Keys() { return std::string(kFirst.bytes()) + std::string(kLast.bytes()); }

TEST(ValidateLeversTest, KeepNeedsKeysAndATimeWithinADay) {
  v1::KeepRequest request;
  EXPECT_THAT(std::string(ValidateKeep(request).status().message()), HasSubstr("keys"));
  request.set_keys(Keys());
  request.set_seconds(86400);
  const absl::StatusOr<KeepCall> call = ValidateKeep(request);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_FALSE(call->space.has_value());
  EXPECT_EQ(call->keys, (std::vector<BlockKey>{kFirst, kLast}));
  EXPECT_EQ(call->duration, absl::Hours(24));
  request.set_seconds(86401);
  EXPECT_THAT(std::string(ValidateKeep(request).status().message()), HasSubstr("86401"));
  request.set_seconds(0);
  request.set_namespace_fingerprint("short");
  EXPECT_EQ(ValidateKeep(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ValidateLeversTest, EvictNeedsAKeyOrANamespace) {
  v1::EvictRequest request;
  EXPECT_THAT(std::string(ValidateEvict(request).status().message()), HasSubstr("one of them says what is to leave"));
  request.set_keys(Keys());
  ASSERT_TRUE(ValidateEvict(request).ok());
  EXPECT_EQ(ValidateEvict(request)->last, kLast);
  request.clear_keys();
  request.set_namespace_fingerprint(std::string(16, 'n'));
  ASSERT_TRUE(ValidateEvict(request).ok());
  EXPECT_FALSE(ValidateEvict(request)->last.has_value());
  request.set_keys("odd");
  EXPECT_EQ(ValidateEvict(request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ValidateLeversTest, QuotaNeedsATenantAndASize) {
  v1::SetQuotaRequest request;
  request.set_dram_bytes(1);
  EXPECT_THAT(std::string(ValidateSetQuota(request).status().message()), HasSubstr("tenant"));
  request.set_tenant("chat");
  ASSERT_TRUE(ValidateSetQuota(request).ok());
  request.clear_dram_bytes();
  EXPECT_EQ(ValidateSetQuota(request).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace stem
