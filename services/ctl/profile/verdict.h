// A record in words: what holds an endpoint back, with the numbers behind it; and the page that tells it.
#pragma once

#include <string>
#include <vector>

#include "services/ctl/profile/record.h"

namespace stem::profile {

struct Finding {
  std::string word;  // prefix_cache, queueing, prefill_bound, decode_bound, cache_pressure, preemption, failing, odd
  std::string text;  // one sentence with its numbers
};

// The most telling first.
std::vector<Finding> VerdictOf(const Record& record);

// Cold p50 over warm p50 of the time to the first token; 0 = one of them was not measured.
double ColdOverWarm(const Record& record, const std::string& phase);

std::string RecordText(const Record& record);

}  // namespace stem::profile
