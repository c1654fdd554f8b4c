#include "proto/validate_operator.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/validate_fields.h"

namespace stem {

using fields::Bad;
using fields::OptionalKey;
using fields::OptionalProbe;
using fields::TextWithin;

namespace {

absl::Status CountWithin(absl::string_view field, uint32_t value, uint32_t max) {
  if (value >= 1 && value <= max) return absl::OkStatus();
  return Bad(field, value, absl::StrCat("it must be 1 to ", max));
}

}  // namespace

absl::StatusOr<DeparturesCall> ValidateDepartures(const v1::DeparturesRequest& message) {
  DeparturesCall call;
  STEM_ASSIGN(call.space, ValidateFingerprint(message.namespace_fingerprint()));
  STEM_ASSIGN(call.keys, ValidateKeys(message.keys()));
  return call;
}

absl::Status ValidateDeparturesReply(const v1::DeparturesReply& message, size_t keys_asked) {
  int64_t before = -1;
  for (const v1::DeparturesReply::Found& found : message.found()) {
    if (found.index() >= keys_asked || found.index() <= before) {
      return Bad("found.index", found.index(), absl::StrCat("indices must ascend, below ", keys_asked));
    }
    before = found.index();
    STEM_TRY(TextWithin("departure.node", found.departure().node(), 1, 128));
    STEM_TRY(TextWithin("departure.policy", found.departure().policy(), 0, 64));
  }
  return absl::OkStatus();
}

absl::StatusOr<MatchCall> ValidateExplain(const v1::ExplainRequest& message) {
  STEM_ASSIGN(std::vector<BlockKey> keys, ValidateKeys(message.keys()));
  STEM_ASSIGN(MatchCall call, fields::ValidateLookup(message, std::move(keys)));
  STEM_ASSIGN(call.probe, OptionalProbe(message.probe()));
  return call;
}

absl::Status ValidateRequests(const v1::RequestsRequest& message) {
  if (message.recent() > kRequestsRecentMax) {
    return Bad("recent", message.recent(), absl::StrCat("it must be at most ", kRequestsRecentMax));
  }
  return TextWithin("request", message.request(), 0, 128);
}

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
