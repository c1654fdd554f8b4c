#include "proto/validate_levers.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "proto/validate_fields.h"

namespace stem {
namespace {

using fields::Bad;

absl::StatusOr<std::optional<NamespaceFingerprint>> OptionalFingerprint(absl::string_view bytes) {
  if (bytes.empty()) return std::nullopt;
  STEM_ASSIGN(const NamespaceFingerprint space, ValidateFingerprint(bytes));
  return space;
}

}  // namespace

absl::StatusOr<KeepCall> ValidateKeep(const v1::KeepRequest& message) {
  KeepCall call;
  STEM_ASSIGN(call.space, OptionalFingerprint(message.namespace_fingerprint()));
  STEM_ASSIGN(call.keys, ValidateKeys(message.keys()));
  if (message.seconds() > kKeepSecondsMax) return Bad("seconds", message.seconds(), absl::StrCat("it must be at most ", kKeepSecondsMax));
  call.duration = absl::Seconds(message.seconds());
  return call;
}

absl::StatusOr<EvictCall> ValidateEvict(const v1::EvictRequest& message) {
  EvictCall call;
  STEM_ASSIGN(call.space, OptionalFingerprint(message.namespace_fingerprint()));
  if (!message.keys().empty()) {
    STEM_ASSIGN(const std::vector<BlockKey> keys, ValidateKeys(message.keys()));
    call.last = keys.back();
  } else if (!call.space.has_value()) {
    return absl::InvalidArgumentError("neither keys nor namespace_fingerprint is set; one of them says what is to leave");
  }
  return call;
}

absl::StatusOr<SetQuotaCall> ValidateSetQuota(const v1::SetQuotaRequest& message) {
  STEM_TRY(fields::TextWithin("tenant", message.tenant(), 1, 128));
  if (message.dram_bytes() == 0 && message.ssd_bytes() == 0) {
    return absl::InvalidArgumentError("neither dram_bytes nor ssd_bytes is set; name the quota that is to change");
  }
  return SetQuotaCall{.tenant = message.tenant(), .dram_bytes = message.dram_bytes(), .ssd_bytes = message.ssd_bytes()};
}

}  // namespace stem
