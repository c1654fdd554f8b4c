#include "services/ctl/why.h"

#include <fmt/format.h>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "services/ctl/printable.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

std::string DifferenceText(const v1::Difference& difference) {
  if (difference.field().empty()) return "its first tokens are known under another namespace of this tenant";
  const auto shown = [](const std::string& value) { return value.empty() ? std::string("empty") : Printable(value); };
  return fmt::format("its first tokens are known under another namespace of this tenant: {} is {} here and {} there", Printable(difference.field()),
                     shown(difference.asked()), shown(difference.known()));
}

// What a cause means when nothing more is known of it.
std::string Meaning(const v1::Miss& miss, const v1::Difference& difference) {
  switch (miss.cause()) {
    case v1::MISS_CAUSE_REFUSED: return "the node had no room or too much to do";
    case v1::MISS_CAUSE_DEADLINE: return "the request's time ran out first";
    case v1::MISS_CAUSE_UNKNOWN: return "no directory could say: none answered, or what it remembers does not reach back that far";
    case v1::MISS_CAUSE_INTEGRITY: return "a copy failed its proof and was withdrawn";
    case v1::MISS_CAUSE_RECOMPUTE_CHEAPER: return "bringing it was expected to take longer than computing it";
    case v1::MISS_CAUSE_UNREACHABLE: return "held, but behind a block that is missing";
    case v1::MISS_CAUSE_NOT_YET:
      return miss.estimate_ms() == 0 ? "being computed or published now"
                                     : fmt::format("being computed now, expected in {}", RoughTime(absl::Milliseconds(miss.estimate_ms())));
    case v1::MISS_CAUSE_NODE_LOST: return "the nodes that held it are lost";
    case v1::MISS_CAUSE_SPILL_REJECTED: return "left DRAM, and was not worth a write to SSD; no node that answers remembers when";
    case v1::MISS_CAUSE_EVICTED: return "left its last tier for space; no node that answers remembers when";
    case v1::MISS_CAUSE_INCOMPATIBLE: return DifferenceText(difference);
    case v1::MISS_CAUSE_COLD: return "never published, as far back as the directory remembers";
    case v1::MISS_CAUSE_BELOW_BLOCK: return "the prompt's end, shorter than a block";
    default: return "no cause was given";
  }
}

}  // namespace

std::string RoughTime(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 1e-3) return fmt::format("{:.0f} us", seconds * 1e6);
  if (seconds < 1) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 90 * 60) return fmt::format("{:.0f} min", seconds / 60);
  if (seconds < 36 * 3600) return fmt::format("{:.1f} h", seconds / 3600);
  return fmt::format("{:.0f} d", seconds / 86400);
}

std::string TierName(v1::Tier tier) { return absl::AsciiStrToLower(absl::StripPrefix(v1::Tier_Name(tier), "TIER_")); }

std::string WhyLeft(const v1::Departure& left) {
  const std::string tier = TierName(left.tier());
  const std::string times = fmt::format("on {} {} ago, age {}", Printable(left.node()), RoughTime(absl::Milliseconds(left.ago_ms())),
                                        RoughTime(absl::Milliseconds(left.age_ms())));
  const std::string by = left.policy().empty() ? "" : fmt::format(", by {}", Printable(left.policy()));
  switch (left.reason()) {
    case v1::REMOVE_REASON_EVICTED: return fmt::format("evicted from {} {}{}", tier, times, by);
    case v1::REMOVE_REASON_SPILL_REJECTED: return fmt::format("evicted from {} {}; spill rejected: {}", tier, times, Printable(left.policy()));
    case v1::REMOVE_REASON_INTEGRITY: return fmt::format("failed its proof in {} {}", tier, times);
    case v1::REMOVE_REASON_WITHDRAWN: return fmt::format("withdrawn from {} {}", tier, times);
    default: return fmt::format("went from {} to ssd {}{}", tier, times, by);
  }
}

std::string WhyMissing(const v1::ExplainReply::Missing& missing) {
  const v1::MissCause cause = missing.miss().cause();
  const bool left = cause == v1::MISS_CAUSE_EVICTED || cause == v1::MISS_CAUSE_SPILL_REJECTED || cause == v1::MISS_CAUSE_INTEGRITY;
  if (left && !missing.departures().empty()) return WhyLeft(missing.departures(0));
  std::string why = Meaning(missing.miss(), missing.difference());
  if (!missing.departures().empty()) absl::StrAppend(&why, "; ", WhyLeft(missing.departures(0)));
  return why;
}

std::string WhyMissed(const v1::RequestRecord& record, const v1::Miss& miss) {
  std::string why = Meaning(miss, record.difference());
  if (miss.cause() == v1::MISS_CAUSE_EVICTED || miss.cause() == v1::MISS_CAUSE_SPILL_REJECTED) {
    why = "left its last tier before it could be read";
  }
  if (miss.cause() == v1::MISS_CAUSE_DEADLINE) {
    absl::StrAppend(&why, " (", RoughTime(absl::Microseconds(record.deadline_us())), " were given, it ended after ",
                    RoughTime(absl::Microseconds(record.duration_us())), ")");
  }
  for (const v1::RequestStep& step : record.steps()) {
    if (step.error().empty()) continue;
    absl::StrAppend(&why, "; ", Printable(step.name()), step.peer().empty() ? "" : " ", Printable(step.peer()), ": ", Printable(step.error()));
  }
  if (!record.error().empty()) absl::StrAppend(&why, "; ", Printable(record.error()));
  return why;
}

}  // namespace stem
