// Why blocks are missing, in words: for stemctl's reports.
#pragma once

#include <string>

#include "absl/time/time.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// "250 us", "350 ms", "4.2 s", "11 min", "3.5 h", "2 d".
std::string RoughTime(absl::Duration duration);

// "dram", "ssd".
std::string TierName(stemcache::v1::Tier tier);

// "evicted from dram on node-2 11 min ago, age 4 min, by stem".
std::string WhyLeft(const stemcache::v1::Departure& departure);

// One sentence: the cause with what is known of it. Of a departure, the latest alone.
std::string WhyMissing(const stemcache::v1::ExplainReply::Missing& missing);

// The same of a miss in a request's record, with what its steps say: its deadline, who failed, how.
std::string WhyMissed(const stemcache::v1::RequestRecord& record, const stemcache::v1::Miss& miss);

}  // namespace stem
