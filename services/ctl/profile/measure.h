// Measures an endpoint: lengths cold and warm, turns, many at once, what is malformed, fixed prompts for comparing outputs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/status.h"
#include "services/ctl/profile/endpoint.h"
#include "services/ctl/profile/prompts.h"
#include "services/ctl/profile/record.h"

namespace stem::profile {

struct MeasureOptions {
  uint64_t short_tokens = 128, average_tokens = 1024, longest_tokens = 4096;  // of prompts, about
  uint32_t rounds = 5;           // of each length, cold and warm
  uint32_t turns = 4;
  uint32_t concurrency = 8;
  uint64_t output_tokens = 32;
  uint64_t seed = 0;             // of the prompts: a new one, so that nothing is known of them
  absl::Duration limit = absl::Minutes(2);       // of one request
  absl::Duration whole_limit = absl::Minutes(60);
  std::string model;             // empty: the first that the endpoint lists
  std::string api;               // completions, chat; empty: what the endpoint has
  std::string metrics_url;       // of the engine's page; empty: /metrics of the endpoint
  std::vector<UserPrompt> prompts;  // the user's own instead of the three lengths
  std::map<std::string, std::string> facts;
  std::function<void(uint64_t done, uint64_t total)> on_request;  // after each; may be empty
  std::string journal;           // file that finished requests are kept in, to go on after an interruption; empty = none
};

// Errors: Unavailable (nothing answers as an endpoint does), InvalidArgument (an option), DataLoss (a journal of another run). An endpoint
// that fails later gives a record that is not whole.
absl::StatusOr<Record> Measure(const Endpoint& endpoint, const MeasureOptions& options);

}  // namespace stem::profile
