// What operators order a node to do -> trusted value: proto/validate.h for the levers of operator.proto, under the same rules.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "proto/validate.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

inline constexpr uint32_t kKeepSecondsMax = 86400;

struct KeepCall {
  std::optional<NamespaceFingerprint> space;  // absent = the one that has the key
  std::vector<BlockKey> keys;                 // of the chain from its beginning, or the last alone
  absl::Duration duration;                    // zero = let go
};
absl::StatusOr<KeepCall> ValidateKeep(const v1::KeepRequest& message);

// One of both is there.
struct EvictCall {
  std::optional<NamespaceFingerprint> space;  // absent = the one that has the key
  std::optional<BlockKey> last;               // absent = all of the namespace
};
absl::StatusOr<EvictCall> ValidateEvict(const v1::EvictRequest& message);

struct SetQuotaCall {
  std::string tenant;
  uint64_t dram_bytes = 0;  // 0 = as it is
  uint64_t ssd_bytes = 0;
};
absl::StatusOr<SetQuotaCall> ValidateSetQuota(const v1::SetQuotaRequest& message);

}  // namespace stem
