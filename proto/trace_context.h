// Which trace a piece of work belongs to, as W3C's traceparent says it: 00-<32 hex: trace>-<16 hex: span>-<2 hex: flags>.
// Source: W3C Trace Context, level 1.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace stem {

inline constexpr char kTraceparent[] = "traceparent";  // key of gRPC metadata

// Words are as read from left to right: the trace's first hex digit is the highest of trace_high.
struct TraceContext {
  uint64_t trace_high = 0;
  uint64_t trace_low = 0;
  uint64_t span = 0;     // the caller's, under which work nests
  bool sampled = false;  // whoever began the trace keeps it

  bool valid() const { return (trace_high | trace_low) != 0 && span != 0; }
  // 32 lower-case hex digits.
  std::string TraceId() const;

  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

// Nothing for what the specification calls invalid: then a trace begins anew. Later versions are read as version 00.
std::optional<TraceContext> ParseTraceparent(absl::string_view text);

// `context` must be valid.
std::string ToTraceparent(const TraceContext& context);

}  // namespace stem
