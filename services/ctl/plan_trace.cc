#include "services/ctl/plan_trace.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/ctl/planner/figures.h"
#include "services/ctl/simulate.h"

namespace stem {
namespace {

constexpr double kGb = 1e9;
constexpr double kMonthSeconds = 365.0 / 12 * 86400;
constexpr size_t kSizes = 14;           // of the curve
constexpr double kSmallestShare = 1e-3;  // of all distinct blocks
constexpr double kNearlyAll = 0.95;
constexpr size_t kMixSizes = 6;  // of each tier

// What one pass over the trace tells before any simulation.
absl::Status Survey(const planner::Plan& plan, const PlanTraceOptions& options, PlanTrace* result) {
  STEM_ASSIGN(const std::unique_ptr<TraceReader> reader, TraceReader::Open(options.trace, {.format = options.format}));
  const std::optional<planner::Roofline> roofline = plan.roofline();
  std::map<uint64_t, double> seconds;  // by prompt length: many are alike
  TraceRequest request;
  uint64_t first_ms = 0, last_ms = 0;
  for (;;) {
    STEM_ASSIGN(const bool more, reader->Next(&request));
    if (!more) break;
    if (result->requests++ == 0) first_ms = request.timestamp_ms;
    last_ms = request.timestamp_ms;
    result->tokens += request.input_tokens;
    if (!roofline) continue;
    const auto [known, is_new] = seconds.try_emplace(request.input_tokens);
    if (is_new) known->second = roofline->PrefillSeconds(request.input_tokens);
    result->prefill_s += known->second;
  }
  if (result->requests == 0) return absl::DataLossError(absl::StrCat(options.trace, ": no request in it"));
  result->seconds = static_cast<double>(last_ms - first_ms) / 1000;
  result->block_tokens = reader->block_tokens();
  result->block_bytes = result->block_tokens * plan.stored_block_bytes / plan.stored_block_tokens;
  return absl::OkStatus();
}

// Simulates DRAM sizes over one SSD size, both in blocks of the trace.
class Tiers {
 public:
  Tiers(const planner::Plan& plan, const PlanTraceOptions& options, PlanTrace* result, Progress* progress)
      : plan_(plan), options_(options), result_(*result), progress_(progress) {}

  absl::StatusOr<std::vector<TierSizes>> Run(const std::vector<uint64_t>& dram_blocks, uint64_t ssd_blocks) {
    SimulateOptions simulate{.trace = options_.trace, .format = options_.format, .ssd_blocks = ssd_blocks};
    simulate.policies = {SimulatedPolicy{PolicyKind::kStem}};
    simulate.capacities_blocks = dram_blocks;
    STEM_ASSIGN(const SimulateReport report, RunSimulation(simulate, progress_));
    distinct_blocks_ = report.distinct_blocks;
    result_.definition = report.definition;
    std::vector<TierSizes> sizes;
    for (const SimulateResult& run : report.results) sizes.push_back(SizesOf(run, ssd_blocks));
    return sizes;
  }

  uint64_t distinct_blocks() const { return distinct_blocks_; }

 private:
  TierSizes SizesOf(const SimulateResult& run, uint64_t ssd_blocks) const {
    TierSizes sizes{run.capacity_blocks * result_.block_bytes, ssd_blocks * result_.block_bytes};
    sizes.token_hit_rate = run.token_hit_rate();
    sizes.prefill_saved = run.prefill_saved_fraction();
    sizes.ssd_share = run.blocks_hit == 0 ? 0 : static_cast<double>(run.blocks_hit_ssd) / static_cast<double>(run.blocks_hit);
    const std::optional<planner::Prices>& prices = plan_.options.prices;
    if (!prices) return sizes;
    sizes.cost_month = static_cast<double>(sizes.dram_bytes) / kGb * prices->dram_gb_month +
                       static_cast<double>(sizes.ssd_bytes) / kGb * prices->ssd_gb_month;
    if (result_.seconds > 0) {
      const double gpu_s = sizes.prefill_saved * result_.prefill_s * plan_.gpus();
      sizes.saved_month = gpu_s * kMonthSeconds / result_.seconds * prices->gpu_hour / 3600;
    }
    return sizes;
  }

  const planner::Plan& plan_;
  const PlanTraceOptions& options_;
  PlanTrace& result_;
  Progress* const progress_;
  uint64_t distinct_blocks_ = 0;
};

std::vector<uint64_t> Geometric(double least, double most, size_t count) {
  std::vector<uint64_t> sizes;
  for (size_t i = 0; i < count; ++i) {
    const double share = count == 1 ? 1 : static_cast<double>(i) / static_cast<double>(count - 1);
    const auto size = static_cast<uint64_t>(std::llround(std::max(1.0, least * std::pow(most / least, share))));
    if (sizes.empty() || size > sizes.back()) sizes.push_back(size);
  }
  return sizes;
}

void ReadCurve(const planner::Plan& plan, PlanTrace* result) {
  const double all = result->curve.back().prefill_saved;
  for (const TierSizes& sizes : result->curve) {
    result->nearly_all_bytes = sizes.dram_bytes;
    if (sizes.prefill_saved >= kNearlyAll * all) break;
  }
  if (!plan.options.prices || result->prefill_s == 0 || result->seconds == 0) return;
  result->pays_bytes = 0;
  double best = 0;  // of no tier at all
  for (const TierSizes& sizes : result->curve) {
    if (sizes.net_month() <= best) continue;
    best = sizes.net_month();
    result->pays_bytes = sizes.dram_bytes;
  }
}

absl::Status FindMix(double goal, Tiers& tiers, PlanTrace* result) {
  const auto blocks = static_cast<double>(tiers.distinct_blocks());
  const std::vector<uint64_t> dram = Geometric(std::max(1.0, blocks / 100), blocks, kMixSizes);
  std::vector<uint64_t> ssd = Geometric(std::max(1.0, blocks / 20), blocks, kMixSizes - 1);
  ssd.insert(ssd.begin(), 0);
  result->goal_missed = goal > 0;
  TierSizes nothing;  // no tier at all: what every mix must beat
  std::optional<TierSizes> best;
  for (const uint64_t size : ssd) {
    STEM_ASSIGN(const std::vector<TierSizes> row, tiers.Run(dram, size));
    for (const TierSizes& sizes : row) {
      if (goal > 0) {
        if (sizes.token_hit_rate < goal) continue;
        result->goal_missed = false;
        if (!best || sizes.cost_month < best->cost_month) best = sizes;
      } else if (sizes.net_month() > (best ? *best : nothing).net_month()) {
        best = sizes;
      }
    }
  }
  result->mix = best;
  return absl::OkStatus();
}

std::string MixText(const PlanTrace& trace) {
  if (trace.goal_missed) return "  no mix reaches the goal: not even room for everything does\n";
  if (!trace.mix) return "  no mix of tiers saves more than it costs at these prices\n";
  const TierSizes& mix = *trace.mix;
  return fmt::format(
      "  cheapest mix: {} DRAM + {} SSD: hit rate {:.3f}, {:.1f} % of prefill; costs {:.2f} a month, saves {:.2f}\n",
      planner::Size(mix.dram_bytes), planner::Size(mix.ssd_bytes), mix.token_hit_rate, 100 * mix.prefill_saved, mix.cost_month,
      mix.saved_month);
}

nlohmann::json SizesJson(const TierSizes& sizes, bool priced) {
  nlohmann::json json = {{"dram_bytes", sizes.dram_bytes},         {"ssd_bytes", sizes.ssd_bytes},
                         {"token_hit_rate", sizes.token_hit_rate}, {"ssd_share", sizes.ssd_share},
                         {"prefill_saved", sizes.prefill_saved}};
  if (!priced) return json;
  json["cost_month"] = sizes.cost_month;
  json["saved_month"] = sizes.saved_month;
  return json;
}

}  // namespace

absl::StatusOr<PlanTrace> TracePlan(const planner::Plan& plan, const PlanTraceOptions& options, Progress* progress) {
  if (options.goal_hit_rate < 0 || options.goal_hit_rate >= 1) {
    return absl::InvalidArgumentError(absl::StrCat("--goal-hit-rate ", options.goal_hit_rate, "; must be 0 to less than 1"));
  }
  if (options.goal_hit_rate > 0 && !plan.options.prices) {
    return absl::InvalidArgumentError("--goal-hit-rate asks for the cheapest mix: give --prices FILE too");
  }
  PlanTrace result;
  result.trace = std::filesystem::path(options.trace).filename().string();
  STEM_TRY(Survey(plan, options, &result));
  Tiers tiers(plan, options, &result, progress);
  const uint64_t dram = plan.options.dram_bytes / result.block_bytes, ssd = plan.options.ssd_bytes / result.block_bytes;
  // The first run also tells how many distinct blocks there are. A tier of SSD alone has one block of DRAM to pass through.
  STEM_ASSIGN(const std::vector<TierSizes> asked, tiers.Run({std::max<uint64_t>(dram, 1)}, ssd));
  if (plan.options.dram_bytes + plan.options.ssd_bytes > 0) result.asked = asked.front();
  const auto blocks = static_cast<double>(tiers.distinct_blocks());
  STEM_ASSIGN(result.curve, tiers.Run(Geometric(std::max(1.0, blocks * kSmallestShare), blocks, kSizes), 0));
  ReadCurve(plan, &result);
  if (plan.options.prices && result.prefill_s > 0) STEM_TRY(FindMix(options.goal_hit_rate, tiers, &result));
  return result;
}

std::string PlanTrace::ToText() const {
  std::string text = fmt::format("\nOn {}: {} requests, {} prompt tokens over {}, blocks of {} tokens ({})\n  hit rates: {}\n", trace,
                                 planner::Count(requests), planner::Count(tokens), planner::Seconds(seconds), block_tokens,
                                 planner::Size(block_bytes), definition);
  if (asked) {
    text += fmt::format("  at the sizes asked for: {:.3f} of prompt tokens hit ({:.0f} % of the hits from SSD), {:.1f} % of prefill saved\n",
                        asked->token_hit_rate, 100 * asked->ssd_share, 100 * asked->prefill_saved);
  }
  const bool priced = pays_bytes.has_value();
  text += fmt::format("  {:>10} {:>10} {:>14} {:>24}{}\n", "DRAM", "hit rate", "prefill saved", "next GiB adds, points",
                      priced ? "   a month: costs     saves" : "");
  for (size_t i = 0; i < curve.size(); ++i) {
    const TierSizes& sizes = curve[i];
    text += fmt::format("  {:>10} {:>10.3f} {:>12.1f} %", planner::Size(sizes.dram_bytes), sizes.token_hit_rate, 100 * sizes.prefill_saved);
    if (i + 1 < curve.size()) {
      const double gib = static_cast<double>(curve[i + 1].dram_bytes - sizes.dram_bytes) / (1 << 30);
      text += fmt::format(" {:>24.4f}", 100 * (curve[i + 1].token_hit_rate - sizes.token_hit_rate) / gib);
    } else {
      text += fmt::format(" {:>24}", "-");
    }
    text += priced ? fmt::format(" {:>17.2f} {:>9.2f}\n", sizes.cost_month, sizes.saved_month) : "\n";
  }
  text += fmt::format("  {} DRAM save {:.0f} % of what unlimited room saves\n", planner::Size(nearly_all_bytes), 100 * kNearlyAll);
  if (!pays_bytes) return text + "  give --prices and --gpu to see where the next gigabyte stops paying\n";
  text += *pays_bytes == 0
              ? "  at these prices no gigabyte of DRAM pays\n"
              : fmt::format("  the next gigabyte of DRAM stops paying at {}\n", planner::Size(*pays_bytes));
  return text + MixText(*this) + "  SSD hits are counted like DRAM hits; the load is taken as that of the trace, all month\n";
}

nlohmann::json PlanTrace::ToJson() const {
  const bool priced = pays_bytes.has_value();
  nlohmann::json json = {{"trace", trace},
                         {"hit_rate_definition", definition},
                         {"requests", requests},
                         {"prompt_tokens", tokens},
                         {"seconds", seconds},
                         {"block_tokens", block_tokens},
                         {"block_bytes", block_bytes},
                         {"nearly_all_bytes", nearly_all_bytes},
                         {"curve", nlohmann::json::array()}};
  for (const TierSizes& sizes : curve) json["curve"].push_back(SizesJson(sizes, priced));
  if (asked) json["asked"] = SizesJson(*asked, priced);
  if (prefill_s > 0) json["estimate"] = {{"prefill_s", prefill_s}};
  if (!priced) return json;
  json["pays_bytes"] = *pays_bytes;
  json["goal_missed"] = goal_missed;
  if (mix) json["mix"] = SizesJson(*mix, true);
  return json;
}

}  // namespace stem
