// What who orders must show, beside being on this host: anybody who has an account here reaches a loopback port.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace stem {

// 128 random bits in hex.
std::string NewAccessToken();

// Takes the same time whatever was shown. Nothing shows an empty `token`.
bool ShowsToken(absl::string_view shown, absl::string_view token);

}  // namespace stem
