// What a profile found: each request, what the engine counted meanwhile, and what it ran on. One JSON document, to be compared later.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/profile/endpoint.h"
#include "services/ctl/profile/engine_counters.h"

namespace stem::profile {

inline constexpr int kRecordVersion = 1;

// One request that was sent.
struct Request {
  std::string phase;  // short, average, longest, own: cold; then warm of each; turns, concurrent, malformed, fixed
  bool warm = false;  // its prompt was sent before
  uint32_t number = 0;
  Completion answer;
};

struct Memory {
  uint64_t before_bytes = 0, first_token_bytes = 0, decode_bytes = 0;  // resident, of the engine's processes; 0 = not seen
};

struct Record {
  std::string url, model, engine, version, api, date;
  uint64_t context_max = 0;                   // as the endpoint says; 0 = it does not
  std::map<std::string, std::string> facts;   // revision, dtype, flags, hardware, driver: what could be seen or was told
  std::string prompt_set;                     // SHA-256 of what was asked
  nlohmann::json options;                     // lengths, rounds, requests at a time
  std::vector<Request> requests;
  std::map<std::string, EngineCounters> counters;  // by phase: what happened in it
  Memory memory;
  std::vector<std::string> notes;             // what could not be measured, and why
  bool whole = true;                          // false: given up before the end

  nlohmann::json ToJson() const;
};

// Numbers of one group of requests.
struct Spread {
  uint64_t count = 0;
  double p50 = 0, p95 = 0, p99 = 0;
};
Spread SpreadOf(std::vector<double> values);

// Of the requests of a phase that were answered.
std::vector<double> FirstTokenSeconds(const Record& record, const std::string& phase, bool warm);
std::vector<double> TokensPerSecond(const Record& record, const std::string& phase, bool warm);
std::vector<double> GapSeconds(const Record& record, const std::string& phase, bool warm);

nlohmann::json ToJson(const Request& request);
// Errors: DataLoss.
absl::StatusOr<Request> RequestOf(const nlohmann::json& json);
// Errors: NotFound, DataLoss (no record).
absl::StatusOr<Record> ReadRecord(const std::string& path);

}  // namespace stem::profile
