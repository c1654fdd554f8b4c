// One policy at one capacity, served request by request. See simulate.h.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "services/ctl/simulate.h"
#include "services/ctl/simulated_node.h"

namespace stem {

// A request as the simulations share it.
struct PreparedRequest {
  uint64_t number = 0;         // from 1
  uint64_t session = 0;        // 0 = the trace tells none
  absl::Time at;
  size_t first = 0;            // its first block in the batch
  size_t count = 0;
  uint64_t tokens = 0;         // of those blocks
  bool counted = true;         // not of the warm-up
};

struct PreparedBatch {
  std::vector<PreparedRequest> requests;
  std::vector<uint32_t> blocks;      // numbers among the distinct blocks
  std::vector<uint64_t> keys;
  std::vector<uint32_t> next_use;    // references until the block comes again, as a place in the trace; only for belady
};

class Simulation {
 public:
  // `block_tokens` of the trace.
  Simulation(const SimulateOptions& options, const SimulatedPolicy& policy, uint64_t capacity_blocks, uint32_t block_tokens);

  void Serve(const PreparedBatch& batch);
  // After the last batch.
  SimulateResult Finish();
  const SimulateResult& so_far() const { return result_; }

 private:
  void ServeOne(const SimulatedRequest& request, const PreparedRequest& prepared);
  SimulatedNode& Route(const SimulatedRequest& request, uint64_t session);

  const SimulateOptions& options_;
  const uint32_t block_tokens_;
  SimulateResult result_;
  std::vector<uint32_t> next_use_;   // by block; only for belady
  std::vector<std::unique_ptr<SimulatedNode>> nodes_;
};

}  // namespace stem
