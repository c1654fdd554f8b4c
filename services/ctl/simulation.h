// One policy at one capacity, served request by request. See simulate.h.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "services/ctl/simulate.h"
#include "services/ctl/simulated_node.h"
#include "services/ctl/trace_batches.h"

namespace stem {

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
