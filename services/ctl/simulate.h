// Eviction policies over a trace without a cluster: what would they have hit? One request after the other: matched = the longest run
// from its first block that is held; then every block of the chain is touched or admitted in chain order; then the policy evicts
// down to capacity. Policies are the node's own code (storage/policy).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "proto/status.h"
#include "services/ctl/progress.h"
#include "services/ctl/replay.h"
#include "services/ctl/trace.h"
#include "storage/policy/admission.h"
#include "storage/policy/policies.h"

namespace stem {

// A policy of the node, or the clairvoyant one that only a simulation can have.
struct SimulatedPolicy {
  std::optional<PolicyKind> kind;  // absent = belady

  std::string name() const;
};
// Errors: InvalidArgument that names the right words.
absl::StatusOr<SimulatedPolicy> ParseSimulatedPolicy(absl::string_view name);

// What engines tell of conversations: nothing, which of them a request belongs to, or also, with its last one, that it has ended and
// with all others that it will resume.
enum class SimulatedHints : uint8_t { kNone, kConversation, kOutlook };

struct SimulateOptions {
  std::string trace;
  TraceFormat format = TraceFormat::kMooncake;
  std::optional<uint32_t> block_tokens;       // absent = the trace's own
  std::vector<SimulatedPolicy> policies;
  std::vector<uint64_t> capacities_blocks;    // of each node's DRAM, 1 at least
  bool leaf_first = false;                    // wraps the classic policies into law 7, as the node does
  uint32_t nodes = 1;
  Routing routing = Routing::kRoundRobin;
  uint64_t ssd_blocks = 0;                    // of each node; 0 = no SSD tier
  AdmissionKind admission = AdmissionKind::kAlways;
  PartialBlock partial = PartialBlock::kCount;
  SimulatedHints hints = SimulatedHints::kNone;  // of traces that tell sessions
  uint64_t requests_max = 0;                  // 0 = the whole trace
  uint64_t warmup_requests = 0;               // served, but not counted
  uint32_t sample_shift = 0;                  // one of 2^shift distinct blocks, at capacities of that share (SHARDS)
  uint32_t threads = 0;                       // 0 = one a core
};

struct SimulateResult {
  std::string policy;
  uint64_t capacity_blocks = 0;
  uint64_t blocks = 0;                 // references that were counted
  uint64_t blocks_hit = 0;
  uint64_t blocks_hit_remote = 0;      // of those, on another node than the request's
  uint64_t blocks_hit_ssd = 0;         // of those, from SSD
  uint64_t tokens = 0;
  uint64_t tokens_hit = 0;
  double prefill = 0;                  // work of the prompts, and of the matched tokens
  double prefill_saved = 0;
  uint64_t orphan_blocks = 0;          // held at the end without their parent
  uint64_t ssd_writes = 0;             // blocks
  double seconds = 0;                  // of processor time

  double block_hit_rate() const { return blocks == 0 ? 0 : static_cast<double>(blocks_hit) / static_cast<double>(blocks); }
  double token_hit_rate() const { return tokens == 0 ? 0 : static_cast<double>(tokens_hit) / static_cast<double>(tokens); }
  double prefill_saved_fraction() const { return prefill == 0 ? 0 : prefill_saved / prefill; }
};

struct SimulateReport {
  std::string definition;              // what the rates are rates of
  uint64_t requests = 0;
  uint64_t references = 0;
  uint64_t distinct_blocks = 0;
  std::vector<SimulateResult> results;  // policy by policy, capacity by capacity

  nlohmann::json ToJson() const;
  std::string ToTable() const;
};

// What the rates of a simulation with these options are rates of.
std::string HitRateDefinition(const SimulateOptions& options);

// Reads the trace once (twice for belady). Memory is bounded by the distinct blocks, but for belady, which needs 8 bytes for each
// reference. `progress` may be null. Errors: InvalidArgument (an option), NotFound and DataLoss (the trace).
absl::StatusOr<SimulateReport> RunSimulation(const SimulateOptions& options, Progress* progress);

}  // namespace stem
