#include "services/ctl/profile/compare.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/figures.h"

namespace stem::profile {
namespace {

constexpr double kDeviate = 2.58;      // one in a hundred by chance
constexpr double kPercentLeast = 3;    // a change smaller than that helps nobody
constexpr uint64_t kSamplesLeast = 5;  // with fewer the deviate cannot reach kDeviate

Change ChangeOf(const std::string& what, const std::vector<double>& before, const std::vector<double>& after) {
  Change change{what, SpreadOf(before).p50, SpreadOf(after).p50, before.size(), after.size()};
  change.percent = change.before == 0 ? 0 : 100 * (change.after / change.before - 1);
  if (std::min(before.size(), after.size()) < kSamplesLeast) {
    change.word = Change::Word::kFewSamples;
  } else if (std::abs(RankDeviate(before, after)) >= kDeviate && std::abs(change.percent) >= kPercentLeast) {
    change.word = Change::Word::kMore;
  }
  return change;
}

std::map<uint32_t, const Completion*> Fixed(const Record& record) {
  std::map<uint32_t, const Completion*> answers;
  for (const Request& request : record.requests) {
    if (request.phase == "fixed" && request.answer.ok()) answers[request.number] = &request.answer;
  }
  return answers;
}

Agreement AgreementOf(const Record& before, const Record& after) {
  Agreement agreement;
  double equal = 0, all = 0, drift = 0, drifts = 0;
  const std::map<uint32_t, const Completion*> others = Fixed(after);
  for (const auto& [number, answer] : Fixed(before)) {
    const auto other = others.find(number);
    if (other == others.end()) continue;
    ++agreement.prompts;
    const Completion &a = *answer, &b = *other->second;
    const bool tokens = !a.tokens.empty() && !b.tokens.empty();
    const size_t longest = tokens ? std::max(a.tokens.size(), b.tokens.size()) : std::max(a.text.size(), b.text.size());
    const size_t shortest = tokens ? std::min(a.tokens.size(), b.tokens.size()) : std::min(a.text.size(), b.text.size());
    size_t same = 0;
    while (same < shortest && (tokens ? a.tokens[same] == b.tokens[same] : a.text[same] == b.text[same])) {
      if (tokens && same < a.logprobs.size() && same < b.logprobs.size()) drift += std::abs(a.logprobs[same] - b.logprobs[same]), ++drifts;
      ++same;
    }
    equal += static_cast<double>(same);
    all += static_cast<double>(longest);
    agreement.whole += same == longest ? 1 : 0;
  }
  if (all > 0) agreement.equal_share = equal / all;
  if (drifts > 0) agreement.logprob_drift = drift / drifts;
  return agreement;
}

const char* WordOf(Change::Word word) {
  return word == Change::Word::kMore ? "more than noise" : word == Change::Word::kNoise ? "noise" : "too few samples";
}

}  // namespace

double RankDeviate(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.empty() || b.empty()) return 0;
  double wins = 0;
  for (const double x : a) {
    for (const double y : b) wins += x < y ? 1 : x == y ? 0.5 : 0;
  }
  const auto n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  return (wins - n * m / 2) / std::sqrt(n * m * (n + m + 1) / 12);
}

Comparison Compare(const Record& before, const Record& after) {
  Comparison comparison;
  const auto differ = [&](const std::string& what, const std::string& a, const std::string& b) {
    if (a != b) comparison.differences.push_back(fmt::format("{}: {} -> {}", what, a.empty() ? "(not told)" : a, b.empty() ? "(not told)" : b));
  };
  differ("model", before.model, after.model);
  differ("engine", before.engine, after.engine);
  differ("version", before.version, after.version);
  differ("interface", before.api, after.api);
  differ("longest context", std::to_string(before.context_max), std::to_string(after.context_max));
  differ("options", before.options.dump(), after.options.dump());
  std::set<std::string> facts;
  for (const auto& [name, value] : before.facts) facts.insert(name);
  for (const auto& [name, value] : after.facts) facts.insert(name);
  for (const std::string& name : facts) {
    const auto a = before.facts.find(name), b = after.facts.find(name);
    differ(name, a == before.facts.end() ? "" : a->second, b == after.facts.end() ? "" : b->second);
  }
  comparison.same_prompts = before.prompt_set == after.prompt_set;
  std::set<std::pair<std::string, bool>> groups;
  for (const Request& request : before.requests) {
    if (request.phase != "malformed" && request.phase != "fixed") groups.emplace(request.phase, request.warm);
  }
  for (const auto& [phase, warm] : groups) {
    const std::string name = fmt::format("{} {}", phase, warm ? "warm" : "cold");
    const std::vector<double> first = FirstTokenSeconds(after, phase, warm);
    if (first.empty()) continue;
    comparison.changes.push_back(ChangeOf(name + ", s to the first token", FirstTokenSeconds(before, phase, warm), first));
    comparison.changes.push_back(ChangeOf(name + ", tokens/s", TokensPerSecond(before, phase, warm), TokensPerSecond(after, phase, warm)));
  }
  comparison.agreement = AgreementOf(before, after);
  return comparison;
}

std::string Comparison::ToText() const {
  std::string text = differences.empty() ? "Nothing that could be seen differs between the two.\n" : "What differs\n";
  for (const std::string& difference : differences) text += fmt::format("  {}\n", difference);
  if (!same_prompts) text += "  ! the prompts are not the same: times are not comparable\n";
  text += fmt::format("\n  {:<40} {:>10} {:>10} {:>9} {:>8}\n", "", "before", "after", "change", "samples");
  for (const Change& change : changes) {
    text += fmt::format("  {:<40} {:>10.4g} {:>10.4g} {:>+8.1f}% {:>8}  {}\n", change.what, change.before, change.after, change.percent,
                        fmt::format("{}/{}", change.before_count, change.after_count), WordOf(change.word));
  }
  if (agreement.prompts == 0) return text + "\nNo outputs of fixed prompts to compare.\n";
  text += fmt::format("\nOutputs of {} fixed prompts: {} equal to the end, {:.1f} % of their tokens before the first that differs", agreement.prompts,
                      agreement.whole, 100 * agreement.equal_share);
  text += agreement.logprob_drift >= 0 ? fmt::format("; log-probabilities drift by {:.4f}\n", agreement.logprob_drift) : "\n";
  return text;
}

nlohmann::json Comparison::ToJson() const {
  nlohmann::json json = {{"differences", differences}, {"same_prompts", same_prompts}, {"changes", nlohmann::json::array()}};
  for (const Change& change : changes) {
    json["changes"].push_back({{"what", change.what}, {"before", change.before}, {"after", change.after}, {"percent", change.percent},
                               {"samples", {change.before_count, change.after_count}}, {"verdict", WordOf(change.word)}});
  }
  json["agreement"] = {{"prompts", agreement.prompts}, {"whole", agreement.whole}, {"equal_share", agreement.equal_share}};
  if (agreement.logprob_drift >= 0) json["agreement"]["logprob_drift"] = agreement.logprob_drift;
  return json;
}

}  // namespace stem::profile
