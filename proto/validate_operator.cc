#include "proto/validate_operator.h"

#include "absl/strings/str_cat.h"
#include "proto/validate_fields.h"

namespace stem {

using fields::Bad;
using fields::OptionalKey;
using fields::TextWithin;

namespace {

absl::Status CountWithin(absl::string_view field, uint32_t value, uint32_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return Bad(field, value, absl::StrCat("it must be 1 to ", max));
}

}  // namespace

absl::Status ValidateHistory(const v1::HistoryRequest& message) {
  STEM_TRY(CountWithin("seconds", message.seconds(), kHistorySecondsMax));
  STEM_TRY(CountWithin("points_max", message.points_max(), kHistoryPointsMax));
  return TextWithin("node", message.node(), 0, 128);
}

absl::StatusOr<HotStemsCall> ValidateHotStems(const v1::HotStemsRequest& message) {
  STEM_TRY(CountWithin("stems_max", message.stems_max(), kHotStemsMax));
  HotStemsCall call{.stems_max = message.stems_max(), .below = std::nullopt};
  STEM_ASSIGN(call.below, OptionalKey("below", message.below()));
  return call;
}

}  // namespace stem
