#include "services/ctl/printable.h"

#include <cstdint>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// Takes a character off `text`; returns its bytes, empty when it may not be shown. UTF-8 as RFC 3629 has it.
absl::string_view NextShown(absl::string_view* text) {
  const auto first = static_cast<unsigned char>(text->front());
  const size_t bytes = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  size_t found = 1;
  while (found < bytes && found < text->size() && IsContinuation((*text)[found])) ++found;
  const absl::string_view character = text->substr(0, found);
  text->remove_prefix(found);
  if (bytes == 0 || found != bytes) return {};
  uint32_t code = bytes == 1 ? first : first & (0x7Fu >> bytes);
  for (const char byte : character.substr(1)) code = code << 6 | (static_cast<unsigned char>(byte) & 0x3Fu);
  const bool overlong = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
  const bool control = code < 0x20 || (code >= 0x7F && code < 0xA0) || (code >= 0x2028 && code <= 0x2029);
  const bool direction = (code >= 0x200E && code <= 0x200F) || (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
  const bool no_character = overlong || (code >= 0xD800 && code <= 0xDFFF) || code > 0x10FFFF;
  return control || direction || no_character ? absl::string_view() : character;
}

}  // namespace

std::string Printable(absl::string_view text) {
  std::string shown;
  shown.reserve(text.size());
  while (!text.empty()) {
    const absl::string_view character = NextShown(&text);
    absl::StrAppend(&shown, character.empty() ? "?" : character);
  }
  return shown;
}

std::string Fit(absl::string_view text, size_t width) {
  std::string shown;
  size_t before_last = 0;  // where the last character that fits begins
  for (size_t count = 0; !text.empty(); ++count) {
    if (count == width) {
      if (width == 0) return {};
      shown.resize(before_last);
      return shown + "~";
    }
    before_last = shown.size();
    const absl::string_view character = NextShown(&text);
    absl::StrAppend(&shown, character.empty() ? "?" : character);
  }
  return shown;
}

}  // namespace stem
