// What operators ask -> trusted value: proto/validate.h for operator.proto, under the same rules.
#pragma once

#include <optional>
#include <vector>

#include "proto/validate.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

struct DeparturesCall {
  NamespaceFingerprint space;
  std::vector<BlockKey> keys;  // part keys
};
absl::StatusOr<DeparturesCall> ValidateDepartures(const v1::DeparturesRequest& message);
// Every index below `keys_asked`, none twice.
absl::Status ValidateDeparturesReply(const v1::DeparturesReply& message, size_t keys_asked);

// As a match; nobody asks who holds it for itself.
absl::StatusOr<MatchCall> ValidateExplain(const v1::ExplainRequest& message);

inline constexpr uint32_t kRequestsRecentMax = 100'000;
absl::Status ValidateRequests(const v1::RequestsRequest& message);

inline constexpr uint32_t kHistorySecondsMax = 86'400;
inline constexpr uint32_t kHistoryPointsMax = 2'000;
absl::Status ValidateHistory(const v1::HistoryRequest& message);

inline constexpr uint32_t kHotStemsMax = 10'000;
struct HotStemsCall {
  size_t stems_max = 0;
  std::optional<BlockKey> below;
};
absl::StatusOr<HotStemsCall> ValidateHotStems(const v1::HotStemsRequest& message);

}  // namespace stem
