#include "services/ctl/planner/plan.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"

namespace stem::planner {
namespace {

constexpr double kGiB = 1 << 30;
constexpr uint64_t kUsualContexts[] = {2048, 8192, 32768, 131072};
constexpr uint64_t kUsualBatches[] = {1, 8, 32, 128};
constexpr uint64_t kContextMax = uint64_t{1} << 24;  // asked for, or searched to when the model names no limit
constexpr uint64_t kTypicalTokens = 8192;            // when no context is given
constexpr double kDaysAMonth = 365.0 / 12;
// Allowance for the runtime: CUDA context, graphs, communication buffers. An assumption; --activation-gib replaces it.
constexpr double kRuntimeGiB = 1.5;

// int4: half a byte and an fp16 scale for 128 (AWQ and GPTQ's usual group); nvfp4: an fp8 scale for 16; mxfp4: a scale
// of 8 bits for 32 (OCP MX), for experts only where there are some, the rest stays bf16 (gpt-oss).
absl::StatusOr<WeightBytes> ParseWeights(const ModelShape& model, const std::string& word) {
  static const std::map<std::string, double>& bytes = *new std::map<std::string, double>{
      {"fp32", 4},       {"fp16", 2},       {"bf16", 2}, {"fp8", 1}, {"int8", 1}, {"int4", 0.5 + 2.0 / 128},
      {"nvfp4", 0.5625}, {"mxfp4", 0.53125}};
  const auto found = bytes.find(word);
  if (found == bytes.end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "weights dtype '", word, "' is unknown; use one of fp32, fp16, bf16, fp8, int8, int4, nvfp4, mxfp4"));
  }
  const bool experts_only = word == "mxfp4" && model.routed > 0;
  return WeightBytes{experts_only ? 2 : found->second, found->second};
}

// Widest activations of a step in 2 bytes a value: four residual-sized buffers and the two halves of a feed-forward
// layer.
uint64_t ActivationBytes(const ModelShape& model, const PlanOptions& options) {
  if (options.activation_gib) return static_cast<uint64_t>(*options.activation_gib * kGiB);
  const uint64_t values = 4 * uint64_t{model.hidden} + 2 * model.feed_forward / options.parallel.tensor;
  return static_cast<uint64_t>(kRuntimeGiB * kGiB) + 2 * values * options.chunk_tokens;
}

double Percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100 * (1 - static_cast<double>(part) / static_cast<double>(whole));
}

absl::Status Check(const PlanOptions& options) {
  const auto in_range = [](const char* flag, double value, double least, double most) {
    if (value >= least && value <= most) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(flag, " ", value, "; must be ", least, "..", most));
  };
  for (const uint64_t context : options.contexts) {
    STEM_TRY(in_range("--context", static_cast<double>(context), 1, static_cast<double>(kContextMax)));
  }
  STEM_TRY(in_range("--tensor-parallel", options.parallel.tensor, 1, 1024));
  STEM_TRY(in_range("--pipeline-parallel", options.parallel.pipeline, 1, 1024));
  STEM_TRY(in_range("--engine-block", options.holding.engine_block_tokens, 1, 65536));
  STEM_TRY(in_range("--draft-tokens", options.holding.draft_tokens, 0, 1024));
  STEM_TRY(in_range("--concurrency", options.concurrency, 1, 1'000'000));
  STEM_TRY(in_range("--block-tokens", options.block_tokens, 1, 65536));
  STEM_TRY(in_range("--steps-at-a-time", options.steps_at_a_time, 1, 1024));
  STEM_TRY(in_range("--chunk-tokens", options.chunk_tokens, 1, 1 << 20));
  STEM_TRY(in_range("--gpu-utilization", options.gpu_utilization, 0.01, 1));
  STEM_TRY(in_range("--hits-per-day", options.hits_per_day, 1e-6, 1e6));
  if (options.activation_gib) STEM_TRY(in_range("--activation-gib", *options.activation_gib, 0, 1024));
  if (!options.gpu) return absl::OkStatus();
  STEM_TRY(in_range("--gpu-memory-gib", options.gpu->memory_gib, 0.1, 10'000));
  STEM_TRY(in_range("--gpu-bandwidth", options.gpu->bandwidth_gb_s, 0, 1e6));
  return in_range("--gpu-tflops", options.gpu->dense_bf16_tflops, 0, 1e6);
}

uint64_t BatchMax(const Plan& plan, uint64_t context) { return plan.engine.blocks / plan.pool.HeldBlocks(context); }

BatchRow LongestContext(const Plan& plan, uint64_t batch) {
  const uint64_t limit = plan.model.context_max > 0 ? plan.model.context_max : kContextMax;
  if (BatchMax(plan, limit) >= batch) return {batch, limit, plan.model.context_max > 0};
  uint64_t fits = 0, fails = limit;
  while (fails - fits > 1) {
    const uint64_t middle = fits + (fails - fits) / 2;
    (BatchMax(plan, middle) >= batch ? fits : fails) = middle;
  }
  return {batch, fits, false};
}

void AddMemory(Plan* plan) {
  plan->weights_bytes = plan->weights.Of(plan->model);
  plan->rank_weights_bytes = plan->weights_bytes / plan->gpus();
  plan->rank_activation_bytes = ActivationBytes(plan->model, plan->options);
  if (!plan->sized()) return;
  if (plan->options.gpu) {
    plan->rank_usable_bytes =
        static_cast<uint64_t>(plan->options.gpu->memory_gib * plan->options.gpu_utilization * kGiB);
    plan->rank_kv_bytes = static_cast<int64_t>(plan->rank_usable_bytes) -
                          static_cast<int64_t>(plan->rank_weights_bytes) -
                          static_cast<int64_t>(plan->rank_activation_bytes);
  }
  if (plan->options.kv_memory_bytes > 0) plan->rank_kv_bytes = static_cast<int64_t>(plan->options.kv_memory_bytes);
  if (plan->rank_kv_bytes <= 0) return;
  plan->kv_bytes = static_cast<uint64_t>(plan->rank_kv_bytes) * plan->gpus();
  plan->engine.blocks = plan->pool.Blocks(static_cast<uint64_t>(plan->rank_kv_bytes));
  const std::vector<uint64_t>& contexts = plan->options.contexts;
  plan->engine.context = contexts.empty() ? plan->typical_tokens : *std::max_element(contexts.begin(), contexts.end());
  plan->engine.request_blocks = plan->pool.ReservedBlocks(
      plan->engine.context, uint64_t{plan->options.chunk_tokens} * plan->options.steps_at_a_time);
}

void AddRows(Plan* plan) {
  std::vector<uint64_t> tokens(std::begin(kUsualContexts), std::end(kUsualContexts));
  tokens.insert(tokens.end(), plan->options.contexts.begin(), plan->options.contexts.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  const std::optional<Roofline> roofline = plan->roofline();
  for (const uint64_t context : tokens) {
    ContextRow row{context, plan->kv.RequestBytes(context), BatchMax(*plan, context)};
    row.saving_percent = Percent(row.request_bytes, MhaTokenBytes(plan->model) * context);
    row.beyond_model = plan->model.context_max > 0 && context > plan->model.context_max;
    if (roofline) {
      row.prefill_s = roofline->PrefillSeconds(context);
      row.decode_ms = 1000 * roofline->DecodeSeconds(context, 1);
      row.decode_full_ms = row.batch_max > 0 ? 1000 * roofline->DecodeSeconds(context, row.batch_max) : 0;
    }
    plan->contexts.push_back(row);
  }
  if (!plan->sized()) return;
  std::vector<uint64_t> batches(std::begin(kUsualBatches), std::end(kUsualBatches));
  batches.push_back(plan->options.concurrency);
  std::sort(batches.begin(), batches.end());
  batches.erase(std::unique(batches.begin(), batches.end()), batches.end());
  for (const uint64_t batch : batches) plan->batches.push_back(LongestContext(*plan, batch));
}

// One rank, so that copies are not counted: what the attention and the dtype save, not what parallelism costs.
absl::Status AddSavings(Plan* plan) {
  const uint64_t tokens = plan->typical_tokens;
  const uint64_t yardstick = MhaTokenBytes(plan->model) * tokens;
  plan->savings.push_back({"every head, fp16 (MHA)", yardstick, 0});
  for (const char* word : {"fp16", "fp8", "fp8_ds_mla", "int8", "int4", "nvfp4"}) {
    STEM_ASSIGN(const KvDtype dtype, ParseKvDtype(word));
    const absl::StatusOr<KvBytes> kv = KvBytes::Of(plan->model, dtype, {}, plan->options.holding);
    if (!kv.ok()) continue;  // engines do not have it for this attention
    const uint64_t bytes = kv->RequestBytes(tokens);
    plan->savings.push_back({absl::StrCat("as the model is, ", word), bytes, Percent(bytes, yardstick)});
  }
  return absl::OkStatus();
}

// A window layer's keys and values are kept for every token and a state for every block: a prompt may resume at any.
void AddTiers(Plan* plan) {
  const uint32_t engine = plan->kv.state() > 0 ? plan->kv.engine_block_tokens() : 1;
  plan->stored_block_tokens = (plan->options.block_tokens + engine - 1) / engine * engine;
  plan->stored_block_bytes = plan->stored_block_tokens * plan->kv.stored_token() + plan->kv.state();
  const std::optional<Roofline> roofline = plan->roofline();
  const std::optional<Prices>& prices = plan->options.prices;
  if (prices && roofline) {
    const double token_s = roofline->PrefillSeconds(plan->typical_tokens) / static_cast<double>(plan->typical_tokens);
    plan->recompute_per_million = token_s * 1e6 * plan->gpus() * prices->gpu_hour / 3600;
  }
  const uint64_t each = (plan->typical_tokens + plan->stored_block_tokens - 1) / plan->stored_block_tokens;
  const auto add = [&](const char* name, uint64_t bytes, double gb_month) {
    if (bytes == 0) return;
    TierRow row{name, bytes, bytes / plan->stored_block_bytes};
    row.tokens = row.blocks * plan->stored_block_tokens;
    row.conversations = row.blocks / each;
    if (prices) {
      const double token_gb = static_cast<double>(plan->stored_block_bytes) / plan->stored_block_tokens / 1e9;
      const double month = token_gb * 1e6 * gb_month;  // of keeping a million tokens
      row.cost_per_million = month / (plan->options.hits_per_day * kDaysAMonth);
      if (plan->recompute_per_million > 0) row.break_even_hits_day = month / plan->recompute_per_million / kDaysAMonth;
    }
    plan->tiers.push_back(row);
  };
  add("dram", plan->options.dram_bytes, prices ? prices->dram_gb_month : 0);
  add("ssd", plan->options.ssd_bytes, prices ? prices->ssd_gb_month : 0);
}

}  // namespace

absl::StatusOr<Prices> ReadPrices(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  Prices prices;
  struct Field {
    const char* name;
    double* value;
  };
  for (const Field& field : {Field{"gpu_hour", &prices.gpu_hour}, Field{"dram_gb_month", &prices.dram_gb_month},
                             Field{"ssd_gb_month", &prices.ssd_gb_month}}) {
    const bool there = json.is_object() && json.contains(field.name) && json[field.name].is_number();
    if (!there || json[field.name].get<double>() < 0) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": '", field.name,
                                                     "' must be a number of at least 0; the file is ",
                                                     R"({"gpu_hour": N, "dram_gb_month": N, "ssd_gb_month": N})"));
    }
    *field.value = json[field.name].get<double>();
  }
  return prices;
}

absl::StatusOr<Plan> MakePlan(const ModelShape& model, const PlanOptions& options) {
  STEM_TRY(Check(options));
  const std::string word = options.weights.empty() ? model.weights : options.weights;
  STEM_ASSIGN(const WeightBytes weights, ParseWeights(model, word));
  STEM_ASSIGN(const KvBytes kv, KvBytes::Of(model, options.kv, options.parallel, options.holding));
  Plan plan{model, options, kv, EnginePool(kv), {}, weights};
  plan.weights_dtype = word;
  plan.typical_tokens = options.contexts.empty() ? kTypicalTokens : options.contexts.front();
  AddMemory(&plan);
  AddRows(&plan);
  STEM_TRY(AddSavings(&plan));
  AddTiers(&plan);
  return plan;
}

}  // namespace stem::planner
