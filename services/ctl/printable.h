// Text from elsewhere, made safe to print: engines' request ids and models, nodes' errors.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace stem {

// `text` with "?" for what a terminal would obey or could not show: control characters (C0, DEL, C1; so no escape sequence and no line of its
// own), marks that turn the direction of writing, bytes that are not UTF-8.
std::string Printable(absl::string_view text);

// The same, of at most `width` characters; "~" at its end says that some were cut.
std::string Fit(absl::string_view text, size_t width);

}  // namespace stem
