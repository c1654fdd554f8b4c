// From a model, GPUs and tiers to what fits and what it costs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/status.h"
#include "services/ctl/planner/engine_pool.h"
#include "services/ctl/planner/gpu_table.h"
#include "services/ctl/planner/kv_bytes.h"
#include "services/ctl/planner/model_shape.h"
#include "services/ctl/planner/roofline.h"

namespace stem::planner {

struct Prices {
  double gpu_hour = 0;
  double dram_gb_month = 0;  // 10^9 bytes
  double ssd_gb_month = 0;
};

// {"gpu_hour": 2.5, "dram_gb_month": 2, "ssd_gb_month": 0.1}. Errors: NotFound, InvalidArgument names the field.
absl::StatusOr<Prices> ReadPrices(const std::string& path);

// Bytes of a weight outside routed experts, and in them.
struct WeightBytes {
  double dense = 2;
  double routed = 2;

  uint64_t Of(const ModelShape& model) const {
    return static_cast<uint64_t>(static_cast<double>(model.routed) * routed +
                                 static_cast<double>(model.parameters - model.routed) * dense);
  }
};

struct PlanOptions {
  KvDtype kv;
  std::string weights;     // empty = what the model's config says
  std::optional<Gpu> gpu;  // absent: sizes only
  uint64_t kv_memory_bytes = 0;  // of each GPU for KV; 0 = what weights and activations leave
  Parallel parallel;
  Holding holding;
  std::vector<uint64_t> contexts;  // tokens; the first is the typical one. Beside them the usual four are shown
  uint32_t concurrency = 1;        // requests at a time
  uint64_t dram_bytes = 0;         // Stemcache tiers of all nodes together; 0 = none
  uint64_t ssd_bytes = 0;
  uint32_t block_tokens = 64;     // of a Stemcache block
  double gpu_utilization = 0.92;  // vLLM's --gpu-memory-utilization default (vllm/config/cache.py)
  std::optional<double> activation_gib;
  uint32_t chunk_tokens = 8192;  // prefilled in a step: sizes the activations
  uint32_t steps_at_a_time = 2;  // asynchronous scheduling (vllm/config/vllm.py, max_concurrent_batches)
  std::optional<Prices> prices;
  double hits_per_day = 1;  // how often a kept token saves its prefill: an assumption until a trace says
};

struct ContextRow {
  uint64_t tokens = 0;
  uint64_t request_bytes = 0;  // all ranks
  uint64_t batch_max = 0;      // 0: not one fits
  double saving_percent = 0;   // against keys and values of every head in fp16 without windows
  double prefill_s = 0;        // estimates; 0 = not known
  double decode_ms = 0;        // of one request alone, a token
  double decode_full_ms = 0;   // of each of batch_max
  bool beyond_model = false;   // more than max_position_embeddings
};

struct BatchRow {
  uint64_t batch = 0;
  uint64_t context_max = 0;  // tokens; 0: does not fit
  bool model_ends = false;   // the model's own limit, not memory
};

// What vLLM says when it starts: "KV cache size: N tokens, Maximum concurrency for L tokens per request".
struct EngineLine {
  uint64_t blocks = 0;          // of the pool; 0 = the memory is not known
  uint64_t request_blocks = 0;  // set aside for one request of `context`
  uint64_t context = 0;         // the longest that was asked for
  double concurrency() const { return static_cast<double>(blocks) / static_cast<double>(request_blocks); }
  uint64_t tokens() const { return static_cast<uint64_t>(concurrency() * static_cast<double>(context)); }
};

struct SavingRow {
  std::string what;
  uint64_t request_bytes = 0;  // at the typical context
  double percent = 0;          // less than the first row
};

struct TierRow {
  std::string tier;
  uint64_t bytes = 0;
  uint64_t blocks = 0;
  uint64_t tokens = 0;
  uint64_t conversations = 0;       // of the typical context, sharing nothing
  double cost_per_million = -1;     // prefill tokens saved; -1 = no prices
  double break_even_hits_day = -1;  // below it recomputing is cheaper
};

struct Plan {
  ModelShape model;
  PlanOptions options;
  KvBytes kv;
  EnginePool pool;
  EngineLine engine;
  WeightBytes weights;
  uint64_t typical_tokens = 0;
  uint64_t weights_bytes = 0;  // all GPUs
  std::string weights_dtype;
  uint64_t rank_weights_bytes = 0;  // on one GPU, as the next three
  uint64_t rank_usable_bytes = 0;
  uint64_t rank_activation_bytes = 0;
  int64_t rank_kv_bytes = 0;   // negative: so much is missing
  uint64_t kv_bytes = 0;       // all GPUs
  std::vector<ContextRow> contexts;
  std::vector<BatchRow> batches;
  std::vector<SavingRow> savings;
  uint32_t stored_block_tokens = 0;
  uint64_t stored_block_bytes = 0;
  std::vector<TierRow> tiers;
  double recompute_per_million = -1;  // price of prefilling a million tokens at the typical context

  // Estimates; borrows the plan. Absent when the GPU's speed is not known.
  std::optional<Roofline> roofline() const {
    const std::optional<Gpu>& gpu = options.gpu;
    if (!gpu || gpu->bandwidth_gb_s == 0 || gpu->dense_bf16_tflops == 0) return std::nullopt;
    return Roofline{model, kv, *gpu, options.parallel.tensor, weights.dense, weights.routed};
  }
  uint32_t gpus() const { return options.parallel.tensor * options.parallel.pipeline; }
  bool sized() const { return options.gpu.has_value() || options.kv_memory_bytes > 0; }
  bool fits() const { return !sized() || rank_kv_bytes > 0; }
};

// Errors: InvalidArgument names the option and what is right.
absl::StatusOr<Plan> MakePlan(const ModelShape& model, const PlanOptions& options);

}  // namespace stem::planner
