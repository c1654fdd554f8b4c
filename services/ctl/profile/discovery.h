// What an endpoint is: its model, engine, and which of the interfaces it has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/profile/endpoint.h"

namespace stem::profile {

struct Discovery {
  std::string model, engine, version;
  std::string api;                  // completions or chat
  uint64_t context_max = 0;         // 0 = not told
  double tokens_per_word = 1.3;     // of MakePrompt's words
  bool ignores_eos = false;         // takes "ignore_eos", which makes all outputs as long
  bool has_logprobs = false;
  std::string metrics_path;         // empty = none
  std::vector<std::string> notes;
};

struct DiscoveryOptions {
  std::string model, api, metrics_path;  // empty: found out
};

// Sends a few small requests. Errors: Unavailable names what was asked and what came.
absl::StatusOr<Discovery> Discover(const Endpoint& endpoint, const DiscoveryOptions& options);

}  // namespace stem::profile
