// What operators ask -> trusted value: proto/validate.h for operator.proto, under the same rules.
#pragma once

#include <optional>

#include "proto/validate.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

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
