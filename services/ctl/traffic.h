// What the fleet's history says of a stretch of time: rates and shares, as status, top and diagnose tell them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "services/ctl/ask.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

struct Traffic {
  double seconds = 0;                     // that it covers
  stemcache::v1::HistoryReply::Point sum;  // of the steps; levels as at the end

  uint64_t tokens_asked() const { return sum.change().tokens_asked(); }
  uint64_t tokens_hit() const;
  double hit_rate() const;                // of tokens; 0 when none was asked
  double PerSecond(uint64_t amount) const { return seconds > 0 ? static_cast<double>(amount) / seconds : 0; }
  double PerSecondOf(stemcache::v1::BytePath path) const;
  // Causes of misses, most tokens first; those of nothing are left out.
  std::vector<std::pair<std::string, uint64_t>> misses() const;
  // Likewise sources of hits.
  std::vector<std::pair<std::string, uint64_t>> hits() const;
  nlohmann::json ToJson() const;
};

// Who is asked for it.
struct HistorySource {
  std::vector<std::string> directories;  // host:port; the first that answers
  const ClusterSecret* secret = nullptr;
  absl::Duration deadline;
};

// The last `seconds` of the fleet, or of one node. Errors: of the last directory that did not answer.
absl::StatusOr<Traffic> AskTraffic(const HistorySource& source, uint32_t seconds, const std::string& node = "");

// The three of every view: "now" is the last 10 s.
struct TrafficWindows {
  absl::StatusOr<Traffic> now{absl::UnknownError("not asked")};      // of 10 s
  absl::StatusOr<Traffic> minutes{absl::UnknownError("not asked")};  // of 5
  absl::StatusOr<Traffic> hour{absl::UnknownError("not asked")};     // of one

  nlohmann::json ToJson() const;
};
// Of the fleet, or of one node.
TrafficWindows AskTrafficWindows(const HistorySource& source, const std::string& node = "");

// Of tokens: "43.1 %", "-" when none was asked, "?" when it is not known.
std::string HitRateText(const absl::StatusOr<Traffic>& traffic);
// "12.3k", "4.5M": three digits and a decimal prefix.
std::string Short(double amount);
// "1.5 GiB".
std::string Bytes(double bytes);
// Of a whole; 0 of nothing.
double Share(uint64_t part, uint64_t all);
std::string Percent(double share);  // "43.1 %"

}  // namespace stem
