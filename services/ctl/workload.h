// The project's own chat workload: sessions that share system prompts (some far more popular than others), speak
// several turns, and send the whole conversation again with each. Deterministic by seed.
#pragma once

#include <cstdint>
#include <queue>
#include <random>
#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/trace.h"

namespace stem {

struct WorkloadOptions {
  uint64_t requests = 2000;        // 1..100,000,000
  uint64_t seed = 1;
  uint32_t block_tokens = 64;      // 1..65536
  uint32_t sessions = 64;          // at a time, 1..65,536; an ended session is followed by a new one
  uint32_t system_prompts = 16;    // 1..4096, drawn with Zipf's law (exponent 1)
  uint32_t turns_mean = 5;         // of a session, geometric, 1..1000
  uint32_t think_ms_mean = 20000;  // between answer and next prompt, exponential, 1..3,600,000
};

absl::Status ValidateWorkload(const WorkloadOptions& options);

// One request after the other, in time order. Memory: the running sessions' ids. Not for two threads at once.
class Workload {
 public:
  // `options` have been validated.
  explicit Workload(const WorkloadOptions& options);

  // Fills `request` and returns true; false after options.requests of them.
  bool Next(TraceRequest* request);

 private:
  struct Session {
    uint64_t id = 0;
    uint32_t turn = 0;
    uint64_t tokens = 0;            // of the conversation so far, the next prompt included
    std::vector<uint64_t> blocks;   // ids of its full blocks so far
  };
  struct Turn {
    uint64_t at_ms = 0;
    uint64_t session = 0;           // id; breaks ties, so that the order is one
    size_t place = 0;               // in sessions_
    friend bool operator>(const Turn& a, const Turn& b) {
      return a.at_ms != b.at_ms ? a.at_ms > b.at_ms : a.session > b.session;
    }
  };

  double Uniform();                               // (0, 1]
  uint64_t Exponential(double mean);              // rounded, at least 1
  void Begin(Session* session);
  const std::vector<uint64_t>& SystemPrompt(size_t index);

  const WorkloadOptions options_;
  std::mt19937_64 random_;
  std::vector<double> popularity_;                // cumulative, of the system prompts
  std::vector<uint64_t> system_tokens_;
  std::vector<std::vector<uint64_t>> system_blocks_;
  std::vector<Session> sessions_;
  std::priority_queue<Turn, std::vector<Turn>, std::greater<>> turns_;
  uint64_t next_block_ = 0;
  uint64_t next_session_ = 0;
  uint64_t made_ = 0;
};

// Writes the workload as a stem trace; "-" = standard output. Errors: InvalidArgument (options), Unavailable (writing).
absl::Status WriteWorkload(const WorkloadOptions& options, const std::string& path);

}  // namespace stem
