#include "proto/trace_context.h"

#include "absl/strings/str_format.h"

namespace stem {
namespace {

constexpr size_t kBytes = 55;  // of version 00

// Lower-case hex alone, as the specification wants.
bool ReadHex(absl::string_view text, uint64_t* value) {
  *value = 0;
  for (const char c : text) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (c < 'a' || c > 'f')) return false;
    *value = *value << 4 | static_cast<uint64_t>(digit ? c - '0' : c - 'a' + 10);
  }
  return true;
}

}  // namespace

std::string TraceContext::TraceId() const { return absl::StrFormat("%016x%016x", trace_high, trace_low); }

std::optional<TraceContext> ParseTraceparent(absl::string_view text) {
  if (text.size() < kBytes || text[2] != '-' || text[35] != '-' || text[52] != '-') return std::nullopt;
  uint64_t version = 0, flags = 0;
  TraceContext context;
  const bool read = ReadHex(text.substr(0, 2), &version) && ReadHex(text.substr(3, 16), &context.trace_high) &&
                    ReadHex(text.substr(19, 16), &context.trace_low) && ReadHex(text.substr(36, 16), &context.span) &&
                    ReadHex(text.substr(53, 2), &flags);
  if (!read || version == 0xff || !context.valid()) return std::nullopt;
  if (text.size() > kBytes && (version == 0 || text[kBytes] != '-')) return std::nullopt;
  context.sampled = (flags & 1) != 0;
  return context;
}

std::string ToTraceparent(const TraceContext& context) {
  return absl::StrFormat("00-%016x%016x-%016x-%02x", context.trace_high, context.trace_low, context.span, context.sampled ? 1 : 0);
}

}  // namespace stem
