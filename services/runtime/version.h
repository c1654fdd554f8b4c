// The version that every process reports; CMakeLists.txt of the project is its one source.
#pragma once

#include "absl/strings/string_view.h"

namespace stem {

inline constexpr absl::string_view kVersion = STEM_VERSION;

}  // namespace stem
