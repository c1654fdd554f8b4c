// Two records: what changed, and whether it is more than noise.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/profile/record.h"

namespace stem::profile {

struct Change {
  std::string what;          // "average cold, first token"
  double before = 0, after = 0;  // medians
  uint64_t before_count = 0, after_count = 0;
  double percent = 0;        // after over before
  enum class Word { kNoise, kMore, kFewSamples } word = Word::kNoise;
};

// How far the outputs of the fixed prompts agree.
struct Agreement {
  uint64_t prompts = 0;
  double equal_share = 0;        // of tokens (of characters, without tokens), up to the first that differs
  uint64_t whole = 0;            // prompts whose outputs are equal
  double logprob_drift = -1;     // mean of |difference| over the equal tokens; -1 = not kept
};

struct Comparison {
  std::vector<std::string> differences;  // of what was run: model, engine, version, options, facts
  std::vector<Change> changes;
  Agreement agreement;
  bool same_prompts = true;

  std::string ToText() const;
  nlohmann::json ToJson() const;
};

Comparison Compare(const Record& before, const Record& after);

// Mann-Whitney's U as a normal deviate (ties counted half): how surely two samples differ. 0 when one is empty.
double RankDeviate(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace stem::profile
