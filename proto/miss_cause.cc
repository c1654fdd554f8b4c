#include "proto/miss_cause.h"

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace stem {

std::string CauseName(stemcache::v1::MissCause cause) {
  return absl::AsciiStrToLower(absl::StripPrefix(stemcache::v1::MissCause_Name(cause), "MISS_CAUSE_"));
}

}  // namespace stem
