#include "services/ctl/planner/advice.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/ctl/planner/engine_files.h"
#include "services/ctl/planner/figures.h"

namespace stem::planner {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;
constexpr uint32_t kTensorSizes[] = {1, 2, 4, 8, 16};
constexpr uint32_t kStepTokensMin = 512, kStepTokensMax = 16384;
constexpr uint32_t kCpuBlockTokens = 128, kCpuStepTokens = 4096;  // vLLM 0.32's defaults on CPUs (platforms/cpu.py)
constexpr double kLoadTimeoutMs = 5000, kLoadTimeoutMsMin = 100;  // the connector's default, and what any copy may take

absl::StatusOr<nlohmann::json> FindWorkload(const std::string& name) {
  nlohmann::json topics = TopicsFile();
  for (nlohmann::json& workload : topics["workloads"]) {
    if (workload["workload"] == name) return std::move(workload);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("no workload '", name, "'; use one of ", absl::StrJoin(WorkloadNames(), ", ")));
}

const ContextRow& RowOf(const Plan& plan, uint64_t tokens) {
  return *std::find_if(plan.contexts.begin(), plan.contexts.end(),
                       [&](const ContextRow& row) { return row.tokens == tokens; });
}

bool Holds(const Plan& plan) {
  return plan.fits() && RowOf(plan, plan.typical_tokens).batch_max >= plan.options.concurrency &&
         RowOf(plan, plan.engine.context).batch_max >= 1;
}

bool MeetsGoal(const Plan& plan, double goal_s) {
  return goal_s == 0 || RowOf(plan, plan.typical_tokens).prefill_s <= goal_s;
}

// The fewest GPUs, and on them the model's own type before fp8.
absl::StatusOr<Plan> ChoosePlan(const ModelShape& model, const AdviceOptions& options, std::vector<std::string>* notes) {
  std::optional<Plan> holding, last;
  absl::Status refused;
  for (const uint32_t tensor : kTensorSizes) {
    for (const char* word : {"", "fp8"}) {
      PlanOptions tried = options.plan;
      if (!options.tensor_given) tried.parallel.tensor = tensor;
      if (*word != '\0') {
        if (options.kv_given || options.cpu) continue;
        STEM_ASSIGN(tried.kv, ParseKvDtype(word));
      }
      absl::StatusOr<Plan> plan = MakePlan(model, tried);
      if (!plan.ok()) {
        refused.Update(plan.status());
        continue;
      }
      if (Holds(*plan) && MeetsGoal(*plan, options.ttft_goal_s)) return plan;
      if (Holds(*plan) && !holding) holding = *plan;
      if (!last || (plan->fits() && plan->engine.blocks >= last->engine.blocks)) last = *std::move(plan);
    }
    if (options.tensor_given || !options.plan.gpu) break;
  }
  if (holding) {
    notes->push_back(fmt::format("The goal of {} to the first token is not met by {} GPU(s) or more of them: a prompt of {} tokens takes {}.",
                                 Seconds(options.ttft_goal_s), holding->gpus(), Count(holding->typical_tokens),
                                 Seconds(RowOf(*holding, holding->typical_tokens).prefill_s)));
    return *std::move(holding);
  }
  if (!last) return refused;
  if (last->sized()) {
    notes->push_back(fmt::format("{} requests of {} tokens do not fit at a time: {} do.", last->options.concurrency,
                                 Count(last->typical_tokens), RowOf(*last, last->typical_tokens).batch_max));
  }
  return *std::move(last);
}

// Prefill of the typical prompt when `hit` of its tokens are known: the work of all less the work of those.
double WarmSeconds(const Plan& plan, double hit) {
  const std::optional<Roofline> roofline = plan.roofline();
  if (!roofline) return 0;
  const auto known = static_cast<uint64_t>(hit * static_cast<double>(plan.typical_tokens));
  const double all = roofline->PrefillSeconds(plan.typical_tokens);
  return known == 0 ? all : std::max(all - roofline->PrefillSeconds(known), roofline->DecodeSeconds(plan.typical_tokens, 1));
}

uint32_t StepTokens(const Plan& plan, double step_ms, bool cpu) {
  const std::optional<Roofline> roofline = plan.roofline();
  if (!roofline) return cpu ? kCpuStepTokens : plan.options.chunk_tokens;
  uint32_t tokens = kStepTokensMax;
  while (step_ms > 0 && tokens > kStepTokensMin && 1000 * roofline->PrefillSeconds(tokens) > step_ms) tokens /= 2;
  return tokens;
}

std::string Estimate(double seconds) { return seconds == 0 ? "an unknown time (give --gpu)" : Seconds(seconds); }

void AddPlanFigures(Advice* advice) {
  const Plan& plan = advice->plan;
  std::map<std::string, std::string>& figures = advice->figures;
  const ContextRow& typical = RowOf(plan, plan.typical_tokens);
  const uint64_t longest = plan.engine.context > 0 ? plan.engine.context : plan.options.contexts.back();
  const ContextRow& row = RowOf(plan, longest);
  const uint64_t requests = plan.options.concurrency;
  figures["model"] = advice->options.model;
  figures["typical"] = std::to_string(plan.typical_tokens);
  figures["longest"] = std::to_string(longest);
  figures["longest_grouped"] = Count(longest);  // as engines print it
  figures["longest_input"] = std::to_string(longest - 1);
  figures["requests"] = std::to_string(requests);
  figures["queue"] = std::to_string(std::max<uint64_t>(128, 4 * requests));
  figures["context_total"] = std::to_string(longest * requests);
  figures["utilization"] = fmt::format("{:.2f}", plan.options.gpu_utilization);
  figures["kv_token"] = Size(plan.kv.per_token());
  figures["kv_longest"] = Size(row.request_bytes);
  figures["weights_gpu"] = Size(plan.rank_weights_bytes);
  figures["kv_gpu"] = plan.sized() ? Size(static_cast<uint64_t>(std::max<int64_t>(plan.rank_kv_bytes, 0))) : "an unknown size";
  figures["kv_gib"] = std::to_string(plan.options.kv_memory_bytes / kGiB);
  figures["engine_blocks"] = plan.sized() ? Count(plan.engine.blocks) : "an unknown number of";
  figures["engine_tokens"] = plan.engine.blocks > 0 ? Count(plan.engine.tokens()) : "?";
  figures["engine_concurrency"] = plan.engine.blocks > 0 ? fmt::format("{:.2f}", plan.engine.concurrency()) : "?";
  figures["block"] = std::to_string(plan.kv.engine_block_tokens());
  figures["block_asked"] = std::to_string(plan.options.holding.engine_block_tokens);
  figures["page"] = std::to_string(std::max(16u, plan.options.holding.engine_block_tokens));
  figures["block_bytes"] = Size(plan.pool.block_bytes());
  figures["batch_typical"] = plan.sized() ? Count(typical.batch_max) : "an unknown number";
  figures["batch_longest"] = plan.sized() ? Count(row.batch_max) : "an unknown number";
  figures["pool_conversations"] = figures["batch_typical"];
  figures["pool_tokens"] = std::to_string(std::max<uint64_t>(typical.batch_max * plan.typical_tokens, longest));
  figures["engine_pool_tokens"] = Count(typical.batch_max * plan.typical_tokens);
  figures["tensor"] = std::to_string(plan.options.parallel.tensor);
  figures["pipeline"] = std::to_string(plan.options.parallel.pipeline);
  figures["copies_effect"] = plan.kv.copies() > 1 ? fmt::format("; {} copies of each key and value", plan.kv.copies()) : "";
  figures["decode_time"] = Estimate(typical.decode_ms / 1000);
  if (plan.options.gpu && plan.options.gpu->memory_gib > 0) {
    const auto fixed = static_cast<double>(plan.rank_weights_bytes) + static_cast<double>(std::max<int64_t>(plan.rank_kv_bytes, 0));
    figures["static_fraction"] = fmt::format("{:.2f}", std::min(0.95, fixed / (plan.options.gpu->memory_gib * kGiB)));
  } else {
    figures["static_fraction"] = "0.85";
  }
}

absl::Status AddDtypeFigures(Advice* advice) {
  const Plan& plan = advice->plan;
  STEM_ASSIGN(const KvDtype full, ParseKvDtype("bf16"));
  STEM_ASSIGN(const KvDtype half, ParseKvDtype("fp8"));
  STEM_ASSIGN(const KvBytes own, KvBytes::Of(plan.model, full, plan.options.parallel, plan.options.holding));
  STEM_ASSIGN(const KvBytes fp8, KvBytes::Of(plan.model, half, plan.options.parallel, plan.options.holding));
  advice->figures["kv_token_full"] = Size(own.per_token());
  const bool is_own = plan.options.kv.sixteenths == full.sixteenths;
  advice->figures["kv_dtype_effect"] =
      is_own ? fmt::format("kept as the model's own: {} a token; fp8 would take {}", Size(own.per_token()), Size(fp8.per_token()))
             : fmt::format("{}: {} a token instead of {}, {} requests of {} tokens at a time", plan.options.kv.word,
                           Size(plan.kv.per_token()), Size(own.per_token()), advice->figures["batch_typical"], plan.typical_tokens);
  return absl::OkStatus();
}

void AddTierFigures(Advice* advice) {
  const Plan& plan = advice->plan;
  const uint64_t dram = plan.options.dram_bytes, ssd = plan.options.ssd_bytes;
  std::map<std::string, std::string>& figures = advice->figures;
  figures["stored_block_tokens"] = std::to_string(plan.stored_block_tokens);
  figures["stored_block"] = Size(plan.stored_block_bytes);
  figures["dram"] = Size(dram);
  figures["dram_gib"] = fmt::format("{:g}", std::round(10 * static_cast<double>(dram) / kGiB) / 10);
  figures["dram_mib"] = std::to_string(dram >> 20);
  figures["dram_gb_rank"] = std::to_string(std::max<uint64_t>(1, dram / 1'000'000'000 / plan.gpus()));
  figures["dram_bytes_rank"] = std::to_string(dram / plan.gpus());
  figures["tier_tokens"] = plan.tiers.empty() ? "0" : Count(plan.tiers.front().tokens);
  figures["tier_conversations"] = plan.tiers.empty() ? "0" : Count(plan.tiers.front().conversations);
  std::string tiers;
  for (const TierRow& row : plan.tiers) {
    tiers += fmt::format("{}{} of {} keep {} conversations of {} tokens", tiers.empty() ? "" : ", ", Size(row.bytes),
                         row.tier == "ssd" ? "SSD" : "DRAM", Count(row.conversations), plan.typical_tokens);
  }
  figures["tiers_effect"] = tiers.empty() ? "no tiers given (--dram, --ssd)" : tiers;
  const std::string& workload = advice->options.workload;
  const bool scans = workload == "rag" || workload == "batch";
  figures["radix_policy"] = scans ? "slru" : "lru";
  figures["admission"] = scans ? "second-touch" : "always";
  figures["node_command"] =
      fmt::format("stem-node --dram {}MiB{} --policy stem --admission {}", dram >> 20,
                  ssd > 0 ? fmt::format(" --ssd {}MiB --ssd-dir /var/lib/stemcache", ssd >> 20) : "", figures["admission"]);
}

void AddTimeFigures(const nlohmann::json& workload, Advice* advice) {
  const Plan& plan = advice->plan;
  std::map<std::string, std::string>& figures = advice->figures;
  const double hit = advice->options.hit_rate.value_or(workload["hit"].get<double>());
  const double cold_s = RowOf(plan, plan.typical_tokens).prefill_s;
  figures["hit"] = fmt::format("{:.0f} %", 100 * hit);
  figures["hit_source"] = advice->options.hit_rate
                              ? advice->options.hit_source
                              : fmt::format("assumed for {}; --trace measures it", advice->options.workload);
  figures["prefill_cold"] = Estimate(cold_s);
  figures["prefill_warm"] = Estimate(WarmSeconds(plan, hit));
  figures["step_tokens"] = std::to_string(plan.options.chunk_tokens);
  const std::optional<Roofline> roofline = plan.roofline();
  figures["step_time"] = Estimate(roofline ? roofline->PrefillSeconds(plan.options.chunk_tokens) : 0);
  const double timeout_ms = cold_s == 0 ? kLoadTimeoutMs : std::clamp(1000 * cold_s, kLoadTimeoutMsMin, kLoadTimeoutMs);
  figures["load_timeout"] = fmt::format("{:.0f}", timeout_ms);
  const nlohmann::json connector = {
      {"kv_connector", "StemcacheConnector"},
      {"kv_connector_module_path", "stemcache.vllm"},
      {"kv_role", "kv_both"},
      {"kv_load_failure_policy", "recompute"},
      {"kv_connector_extra_config", {{"node", advice->options.node}, {"load_timeout_ms", std::lround(timeout_ms)}}}};
  figures["connector_json"] = connector.dump();
}

void Default(const nlohmann::json& workload, const ModelShape& model, AdviceOptions* options) {
  PlanOptions& plan = options->plan;
  if (plan.contexts.empty()) {
    const uint64_t limit = model.context_max > 0 ? model.context_max : UINT64_MAX;
    for (const char* field : {"typical", "p95", "longest"}) plan.contexts.push_back(std::min(workload[field].get<uint64_t>(), limit));
  }
  if (plan.concurrency == 0) plan.concurrency = workload["requests"];
  if (options->cpu) plan.holding.engine_block_tokens = kCpuBlockTokens;
}

// On CPUs nothing says how much memory there is for KV: as much as the requests need, and one of the longest.
absl::Status SizeForCpu(const ModelShape& model, PlanOptions* plan) {
  if (plan->kv_memory_bytes > 0) return absl::OkStatus();
  STEM_ASSIGN(const KvBytes kv, KvBytes::Of(model, plan->kv, plan->parallel, plan->holding));
  const EnginePool pool(kv);
  const uint64_t longest = *std::max_element(plan->contexts.begin(), plan->contexts.end());
  const uint64_t blocks = std::max(pool.HeldBlocks(plan->contexts.front()) * plan->concurrency,
                                   pool.ReservedBlocks(longest, uint64_t{2} * plan->chunk_tokens)) + 1;
  plan->kv_memory_bytes = (blocks * pool.block_bytes() + kGiB - 1) / kGiB * kGiB;
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> WorkloadNames() {
  std::vector<std::string> names;
  const nlohmann::json topics = TopicsFile();
  for (const nlohmann::json& workload : topics["workloads"]) names.push_back(workload["workload"]);
  return names;
}

std::string Filled(const std::string& text, const std::map<std::string, std::string>& figures) {
  std::string filled;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text.compare(at, 2, "{{") == 0 || text.compare(at, 2, "}}") == 0) {
      filled.push_back(text[at++]);
      continue;
    }
    const size_t end = text[at] == '{' ? text.find('}', at) : std::string::npos;
    const auto figure = end == std::string::npos ? figures.end() : figures.find(text.substr(at + 1, end - at - 1));
    if (figure == figures.end()) {
      filled.push_back(text[at]);
      continue;
    }
    filled += figure->second;
    at = end;
  }
  return filled;
}

absl::StatusOr<Advice> MakeAdvice(const ModelShape& model, AdviceOptions options) {
  STEM_ASSIGN(const nlohmann::json workload, FindWorkload(options.workload));
  if (options.ttft_goal_s < 0) return absl::InvalidArgumentError("--goal-ttft must be above 0");
  if (options.cpu && options.plan.gpu) return absl::InvalidArgumentError("--device cpu and --gpu exclude each other");
  Default(workload, model, &options);
  if (options.cpu) options.plan.chunk_tokens = kCpuStepTokens;
  if (options.cpu) STEM_TRY(SizeForCpu(model, &options.plan));
  std::vector<std::string> notes;
  STEM_ASSIGN(Plan plan, ChoosePlan(model, options, &notes));
  const uint32_t step = StepTokens(plan, workload["step_ms"], options.cpu);
  if (step != plan.options.chunk_tokens) {  // the step sizes activations, and so the pool
    PlanOptions again = plan.options;
    again.chunk_tokens = step;
    STEM_ASSIGN(plan, MakePlan(model, again));
  }
  Advice advice{std::move(options), std::move(plan), workload["what"], {}, {}, std::move(notes)};
  const PlanOptions& chosen = advice.plan.options;
  advice.conditions = {advice.options.cpu ? "cpu" : "gpu"};
  if (chosen.dram_bytes > 0) advice.conditions.insert("tiers");
  if (chosen.dram_bytes > 0 && advice.options.cpu) advice.conditions.insert("connector");
  if (advice.plan.gpus() > 1) advice.conditions.insert("parallel");
  if (chosen.parallel.pipeline > 1) advice.conditions.insert("pipeline");
  AddPlanFigures(&advice);
  STEM_TRY(AddDtypeFigures(&advice));
  AddTierFigures(&advice);
  AddTimeFigures(workload, &advice);
  return advice;
}

}  // namespace stem::planner
