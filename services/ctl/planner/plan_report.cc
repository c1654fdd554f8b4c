#include "services/ctl/planner/plan_report.h"

#include <string>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/figures.h"
#include "services/ctl/planner/roofline.h"

namespace stem::planner {
namespace {

std::string Where(const Plan& plan) {
  const Parallel& parallel = plan.options.parallel;
  std::string split = fmt::format("TP {}", parallel.tensor);
  if (parallel.pipeline > 1) split += fmt::format(" x PP {}", parallel.pipeline);
  return fmt::format("{} x {} ({})", plan.gpus(), plan.options.gpu ? plan.options.gpu->name : "GPU", split);
}

const ContextRow& RowOf(const Plan& plan, uint64_t tokens) {
  for (const ContextRow& row : plan.contexts) {
    if (row.tokens == tokens) return row;
  }
  return plan.contexts.front();
}

// The question asked, answered: does it fit, how many, how long.
std::string Answer(const Plan& plan) {
  const ContextRow& row = RowOf(plan, plan.typical_tokens);
  std::string text = fmt::format("{}: {} of KV a token", plan.model.name, Size(plan.kv.per_token()));
  const uint64_t fixed = plan.kv.state() + plan.kv.window();
  if (fixed > 0) text += fmt::format(" + up to {} a request", Size(fixed));
  text += fmt::format(", {} a request of {} tokens\n", Size(plan.kv.RequestBytes(plan.typical_tokens)),
                      Count(plan.typical_tokens));
  if (!plan.sized()) return text + "Give --gpu NAME to see what fits and how fast.\n";
  if (!plan.fits()) {
    return text + fmt::format(
                      "DOES NOT FIT on {}: {} a GPU are missing for weights and activations; use more GPUs, larger "
                      "ones or smaller weights.\n",
                      Where(plan), Size(static_cast<uint64_t>(-plan.rank_kv_bytes)));
  }
  const uint32_t wanted = plan.options.concurrency;
  const bool enough = wanted <= row.batch_max;
  text += fmt::format("{}: {} of {} tokens at a time; {} hold {}, with {} for KV.\n",
                      enough ? "FITS" : "DOES NOT FIT",
                      wanted == 1 ? "one request" : fmt::format("{} requests", Count(wanted)), Count(row.tokens),
                      Where(plan), Count(row.batch_max), Size(plan.kv_bytes));
  return text;
}

std::string Memory(const Plan& plan) {
  std::string text = "\nMemory of one GPU\n";
  if (plan.options.gpu) {
    text += fmt::format("  {:<28} {:>10}   {:.0f} % of {:.0f} GiB\n", "usable", Size(plan.rank_usable_bytes),
                        100 * plan.options.gpu_utilization, plan.options.gpu->memory_gib);
  }
  text +=
      fmt::format("  {:<28} {:>10}   {:.1f}B weights, {}, over {} GPU(s)\n", "weights", Size(plan.rank_weights_bytes),
                  static_cast<double>(plan.model.parameters) / 1e9, plan.weights_dtype, plan.gpus());
  text += fmt::format("  {:<28} {:>10}   an allowance: runtime and a step of {} tokens\n", "activations",
                      Size(plan.rank_activation_bytes), Count(plan.options.chunk_tokens));
  if (!plan.fits() || !plan.sized()) return text;
  text += fmt::format("  {:<28} {:>10}   {} engine blocks of {} tokens, {} each\n",
                      plan.options.kv_memory_bytes > 0 ? "for KV, as asked" : "left for KV",
                      Size(static_cast<uint64_t>(plan.rank_kv_bytes)), Count(plan.engine.blocks),
                      plan.kv.engine_block_tokens(), Size(plan.pool.block_bytes()));
  text += fmt::format("  vLLM will say: KV cache size {} tokens, maximum concurrency for {} tokens {:.2f}x\n",
                      Count(plan.engine.tokens()), Count(plan.engine.context), plan.engine.concurrency());
  return text;
}

std::string Contexts(const Plan& plan) {
  std::string text = fmt::format("\nBy context ({} KV; times are roofline estimates, one request unless said)\n",
                                 plan.options.kv.word);
  text += fmt::format("  {:>10} {:>12} {:>10} {:>9} {:>10} {:>12} {:>14}\n", "tokens", "KV/request", "vs MHA",
                      "batch max", "prefill", "ms/token", "ms/token full");
  bool beyond = false;
  for (const ContextRow& row : plan.contexts) {
    const bool timed = row.prefill_s > 0;
    beyond = beyond || row.beyond_model;
    text +=
        fmt::format("  {:>10} {:>12} {:>10} {:>9} {:>10} {:>12} {:>14}\n",
                    Count(row.tokens) + (row.beyond_model ? "*" : ""), Size(row.request_bytes),
                    fmt::format("{:+.1f} %", -row.saving_percent + 0.0), plan.sized() ? Count(row.batch_max) : "-",
                    Seconds(row.prefill_s), timed ? fmt::format("{:.1f}", row.decode_ms) : "-",
                    row.decode_full_ms > 0 ? fmt::format("{:.1f}", row.decode_full_ms) : "-");
  }
  if (beyond) text += fmt::format("  * more than the model's own {} tokens\n", Count(plan.model.context_max));
  if (plan.batches.empty() || !plan.fits()) return text;
  text += "\nLongest context by requests at a time\n";
  for (const BatchRow& row : plan.batches) {
    text += fmt::format("  {:>10} {:>12} tokens{}\n", Count(row.batch), Count(row.context_max),
                        row.model_ends         ? " (the model's own limit)"
                        : row.context_max == 0 ? " (not one block each)"
                                               : "");
  }
  return text;
}

std::string Savings(const Plan& plan) {
  std::string text = fmt::format("\nWhat attention and dtype save, {} tokens\n", Count(plan.typical_tokens));
  for (const SavingRow& row : plan.savings) {
    text += fmt::format("  {:<28} {:>10}", row.what, Size(row.request_bytes));
    text += row.percent == 0 ? "\n" : fmt::format("   {:.1f} % less\n", row.percent);
  }
  return text;
}

std::string Tiers(const Plan& plan) {
  std::string text =
      fmt::format("\nStemcache: blocks of {} tokens, {}\n", plan.stored_block_tokens, Size(plan.stored_block_bytes));
  if (plan.tiers.empty()) return text + "  give --dram and --ssd to see what tiers hold\n";
  for (const TierRow& row : plan.tiers) {
    text +=
        fmt::format("  {:<5} {:>10} {:>14} blocks {:>14} tokens {:>9} conversations of {}\n", row.tier, Size(row.bytes),
                    Count(row.blocks), Count(row.tokens), Count(row.conversations), Count(plan.typical_tokens));
  }
  if (!plan.options.prices) return text;
  text += fmt::format("  cost of a million prefill tokens saved, at {} hit(s) a day for each token kept\n",
                      plan.options.hits_per_day);
  for (const TierRow& row : plan.tiers) {
    text += fmt::format("  {:<5} {:>10.4f}", row.tier, row.cost_per_million);
    if (row.break_even_hits_day >= 0) text += fmt::format("   pays from {:.3f} hits a day", row.break_even_hits_day);
    text += "\n";
  }
  if (plan.recompute_per_million >= 0)
    text += fmt::format("  {:<5} {:>10.4f}   on the GPUs\n", "again", plan.recompute_per_million);
  return text;
}

std::string Notes(const Plan& plan) {
  std::string text = "\nNotes\n";
  const uint32_t floor = plan.kv.engine_block_tokens();
  if (plan.kv.state() > 0) {
    text += fmt::format(
        "  - FLOOR: the engine's blocks grow to {} tokens (a block is no smaller than a state). Prompts shorter\n"
        "    than that never hit, in no cache. Fixed per request: {} of state.\n",
        Count(floor), Size(plan.kv.state()));
  } else {
    text += fmt::format("  - Floor: prompts shorter than an engine block of {} tokens never hit.\n", floor);
  }
  if (plan.kv.window() > 0) {
    text += fmt::format(
        "  - Window layers stop growing at {} tokens: at most {} a request. Stemcache keeps them for every token.\n",
        Count(plan.kv.window_tokens()), Size(plan.kv.window()));
  }
  if (plan.kv.copies() > 1) {
    text += fmt::format("  - {} ranks hold the same keys and values: GPUs pay for {} copies, Stemcache keeps one.\n",
                        plan.kv.copies(), plan.kv.copies());
  }
  if (plan.kv.per_token() == MhaTokenBytes(plan.model)) {
    text += fmt::format(
        "  - 2,048 tokens take {}: layers x (keys + values) x heads x dims x 2 bytes. Tables that show half, {}, "
        "count\n"
        "    keys without values, or one byte a value.\n",
        Size(plan.kv.per_token() * 2048), Size(plan.kv.per_token() * 1024));
  }
  if (plan.options.holding.draft_tokens > 0) {
    text += fmt::format("  - Each request also holds blocks for {} draft tokens; rejected ones are thrown away.\n",
                        plan.options.holding.draft_tokens);
  }
  text += fmt::format(
      "  - Times assume {:.0f} % of dense bf16 arithmetic and {:.0f} % of bandwidth, and no queue or network.\n",
      100 * kComputeShare, 100 * kBandwidthShare);
  if (plan.pool.padding_layers() > 0) {
    text += fmt::format("  - The engine pads {} layer(s): kinds of layers share a pool in groups of equally many.\n",
                        plan.pool.padding_layers());
  }
  text += fmt::format("  - The model's numbers: {}.\n", plan.model.source);
  for (const std::string& assumed : plan.model.assumed) text += fmt::format("  - Assumed: {}\n", assumed);
  return text;
}

nlohmann::json ContextsJson(const Plan& plan) {
  nlohmann::json rows = nlohmann::json::array();
  for (const ContextRow& row : plan.contexts) {
    nlohmann::json json = {{"tokens", row.tokens},
                           {"request_bytes", row.request_bytes},
                           {"saving_percent", row.saving_percent},
                           {"beyond_model", row.beyond_model}};
    if (plan.sized()) json["batch_max"] = row.batch_max;
    if (row.prefill_s > 0) json["estimate"] = {{"prefill_s", row.prefill_s}, {"decode_ms", row.decode_ms}};
    if (row.decode_full_ms > 0) json["estimate"]["decode_full_ms"] = row.decode_full_ms;
    rows.push_back(json);
  }
  return rows;
}

nlohmann::json TiersJson(const Plan& plan) {
  nlohmann::json json = {{"block_tokens", plan.stored_block_tokens},
                         {"block_bytes", plan.stored_block_bytes},
                         {"tiers", nlohmann::json::array()}};
  for (const TierRow& row : plan.tiers) {
    nlohmann::json tier = {{"tier", row.tier},
                           {"bytes", row.bytes},
                           {"blocks", row.blocks},
                           {"tokens", row.tokens},
                           {"conversations", row.conversations}};
    if (row.cost_per_million >= 0) tier["cost_per_million_saved"] = row.cost_per_million;
    if (row.break_even_hits_day >= 0) tier["break_even_hits_day"] = row.break_even_hits_day;
    json["tiers"].push_back(tier);
  }
  if (plan.recompute_per_million >= 0) json["recompute_per_million"] = plan.recompute_per_million;
  return json;
}

}  // namespace

std::string PlanText(const Plan& plan) {
  return Answer(plan) + Memory(plan) + Contexts(plan) + Savings(plan) + Tiers(plan) + Notes(plan);
}

nlohmann::json PlanJson(const Plan& plan) {
  nlohmann::json json = {{"model",
                          {{"name", plan.model.name},
                           {"type", plan.model.type},
                           {"source", plan.model.source},
                           {"parameters", plan.model.parameters},
                           {"active_parameters", plan.model.active},
                           {"context_max", plan.model.context_max}}},
                         {"fits", plan.fits()},
                         {"kv",
                          {{"dtype", plan.options.kv.word},
                           {"bytes_per_token", plan.kv.per_token()},
                           {"bytes_per_token_distinct", plan.kv.per_token_distinct()},
                           {"state_bytes_per_request", plan.kv.state()},
                           {"window_bytes_per_request", plan.kv.window()},
                           {"window_tokens", plan.kv.window_tokens()},
                           {"copies", plan.kv.copies()},
                           {"engine_block_tokens", plan.kv.engine_block_tokens()}}},
                         {"weights", {{"dtype", plan.weights_dtype}, {"bytes", plan.weights_bytes}}},
                         {"typical_tokens", plan.typical_tokens},
                         {"contexts", ContextsJson(plan)},
                         {"stemcache", TiersJson(plan)},
                         {"assumed", plan.model.assumed}};
  for (const SavingRow& row : plan.savings) {
    json["savings"].push_back({{"what", row.what}, {"request_bytes", row.request_bytes}, {"percent", row.percent}});
  }
  if (plan.engine.blocks > 0) {
    json["engine"] = {{"block_bytes", plan.pool.block_bytes()},
                      {"blocks", plan.engine.blocks},
                      {"request_blocks", plan.engine.request_blocks},
                      {"context", plan.engine.context},
                      {"tokens", plan.engine.tokens()},
                      {"concurrency", plan.engine.concurrency()},
                      {"padding_layers", plan.pool.padding_layers()}};
  }
  for (const BatchRow& row : plan.batches) {
    json["batches"].push_back({{"batch", row.batch}, {"context_max", row.context_max}, {"model_ends", row.model_ends}});
  }
  if (!plan.options.gpu) return json;
  json["gpu"] = {{"name", plan.options.gpu->name},
                 {"count", plan.gpus()},
                 {"usable_bytes", plan.rank_usable_bytes},
                 {"weights_bytes", plan.rank_weights_bytes},
                 {"activation_bytes", plan.rank_activation_bytes},
                 {"kv_bytes", plan.rank_kv_bytes}};
  return json;
}

}  // namespace stem::planner
