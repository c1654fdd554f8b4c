#include "services/ctl/planner/retention_advice.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "services/ctl/planner/engine_files.h"
#include "services/ctl/planner/figures.h"

namespace stem::planner {
namespace {

// The measured row of the policy whose share is nearest.
void AddError(const nlohmann::json& measured, double share, RetentionRow* row) {
  double nearest = INFINITY;
  for (const nlohmann::json& each : measured) {
    const double distance = std::abs(std::log(each["kept_share"].get<double>() / share));
    if (each["policy"] != row->policy || distance >= nearest) continue;
    nearest = distance;
    row->measured_share = each["kept_share"];
    row->error_mean = each["error_mean"];
    row->error_p95 = each["error_p95"];
  }
}

}  // namespace

absl::StatusOr<RetentionAdvice> AdviseRetention(const Plan& plan, uint64_t keep_tokens) {
  const std::vector<uint64_t>& contexts = plan.options.contexts;
  RetentionAdvice advice;
  advice.context_tokens = contexts.empty() ? plan.typical_tokens : *std::max_element(contexts.begin(), contexts.end());
  if (keep_tokens < 16 || keep_tokens >= advice.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--keep-tokens ", keep_tokens, "; must be 16 or more and less than the longest context, ", advice.context_tokens));
  }
  const nlohmann::json file = RetentionFile();
  advice.measured = file["measured"]["what"];
  advice.warning = file["warning"];
  const uint64_t whole = plan.kv.RequestBytes(advice.context_tokens);
  for (const nlohmann::json& policy : file["policies"]) {
    RetentionRow row{policy["policy"], policy["title"], policy["how"], policy["who"]};
    const bool prunes = row.policy != "paged";
    row.kept_tokens = prunes ? keep_tokens : advice.context_tokens;
    row.request_bytes = plan.kv.RequestBytes(row.kept_tokens);
    row.saved_percent = 100 * (1 - static_cast<double>(row.request_bytes) / static_cast<double>(whole));
    if (prunes) {
      AddError(file["measured"]["rows"], static_cast<double>(keep_tokens) / static_cast<double>(advice.context_tokens), &row);
    } else {
      row.error_mean = row.error_p95 = 0;
      row.measured_share = 1;
    }
    advice.rows.push_back(std::move(row));
  }
  return advice;
}

std::string RetentionAdvice::ToText() const {
  std::string text = fmt::format("\n==== Pruning inside a sequence of {} tokens\n  {:<38} {:>9} {:>10} {:>8} {:>22}\n", Count(context_tokens), "",
                                 "keeps", "a request", "saves", "output error, mean p95");
  for (const RetentionRow& row : rows) {
    text += fmt::format("  {:<38} {:>9} {:>10} {:>6.1f} % {:>22}\n", row.title, Count(row.kept_tokens), Size(row.request_bytes), row.saved_percent,
                        row.error_mean < 0 ? "not measured" : fmt::format("{:.3f} {:.3f}", row.error_mean, row.error_p95));
  }
  for (const RetentionRow& row : rows) text += fmt::format("  - {}: {} ({})\n", row.title, row.how, row.who);
  double share = 0;
  for (const RetentionRow& row : rows) share = row.measured_share < 1 ? row.measured_share : share;
  text += fmt::format("  Errors: {}; the measured share nearest to yours is {:g}.\n", measured, share);
  return text + fmt::format("  {}\n", warning);
}

nlohmann::json RetentionAdvice::ToJson() const {
  nlohmann::json json = {{"context", context_tokens}, {"measured", measured}, {"policies", nlohmann::json::array()}};
  for (const RetentionRow& row : rows) {
    nlohmann::json entry = {{"policy", row.policy}, {"kept_tokens", row.kept_tokens}, {"request_bytes", row.request_bytes},
                            {"saved_percent", row.saved_percent}, {"engines", row.who}};
    if (row.error_mean >= 0) entry["output_error"] = {{"mean", row.error_mean}, {"p95", row.error_p95}, {"kept_share", row.measured_share}};
    json["policies"].push_back(entry);
  }
  return json;
}

}  // namespace stem::planner
