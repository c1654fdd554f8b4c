#include "services/ctl/profile/verdict.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "services/ctl/planner/figures.h"

namespace stem::profile {
namespace {

using planner::Count;
using planner::Seconds;
using planner::Size;

// The claim that users hear of prefix caching is 1.5 to 3 times; below this it does not work.
constexpr double kClaimLeast = 1.5, kNoEffect = 1.2;
constexpr double kQueueing = 1.5;     // times what the prefills of the others explain
constexpr double kPrefillShare = 0.5;
constexpr double kUsageHigh = 0.9;
constexpr const char* kCold[] = {"short", "average", "longest", "own"};

// The longest kind of prompt that was measured both ways.
const char* LongestPhase(const Record& record) {
  for (const char* phase : {"own", "longest", "average", "short"}) {
    if (ColdOverWarm(record, phase) > 0) return phase;
  }
  return "";
}

std::string HitsText(const Record& record, const std::string& phase) {
  const auto found = record.counters.find(phase + " warm");
  if (found == record.counters.end()) return "";
  const EngineCounters& counters = found->second;
  std::string text;
  if (counters.hits_tokens && counters.queries_tokens && *counters.queries_tokens > 0) {
    text += fmt::format("; the engine counts {:.0f} of {:.0f} prompt tokens from its own cache", *counters.hits_tokens, *counters.queries_tokens);
  }
  if (counters.external_hits_tokens && *counters.external_hits_tokens > 0) {
    text += fmt::format(", {:.0f} from its connector", *counters.external_hits_tokens);
  }
  return text;
}

void PrefixCache(const Record& record, std::vector<Finding>* findings) {
  const std::string phase = LongestPhase(record);
  if (phase.empty()) return;
  const double ratio = ColdOverWarm(record, phase);
  const double cold = SpreadOf(FirstTokenSeconds(record, phase, false)).p50, warm = SpreadOf(FirstTokenSeconds(record, phase, true)).p50;
  const char* word = ratio >= kClaimLeast ? "works" : ratio < kNoEffect ? "does nothing here" : "helps little";
  findings->push_back({"prefix_cache", fmt::format("Prefix caching {}: the {} prompts' first token comes after {} cold, {} warm, {:.2f} times{}.",
                                                   word, phase, Seconds(cold), Seconds(warm), ratio, HitsText(record, phase))});
}

void Queueing(const Record& record, std::vector<Finding>* findings) {
  const std::vector<double> many = FirstTokenSeconds(record, "concurrent", false);
  std::vector<double> alone = FirstTokenSeconds(record, "average", false);
  if (alone.empty()) alone = FirstTokenSeconds(record, "own", false);
  if (many.size() < 2 || alone.empty()) return;
  const Spread at_once = SpreadOf(many);
  const double one = SpreadOf(alone).p50;
  // One after the other, the last of n waits n prefills; the middle one half of them.
  const double explained = one * (static_cast<double>(many.size()) + 1) / 2;
  const bool waits = at_once.p50 > 2 * one;
  if (!waits) return;
  findings->push_back({"queueing", fmt::format("With {} at once the first token comes after {} (p50) and {} (p99), alone after {}: {}.", many.size(),
                                               Seconds(at_once.p50), Seconds(at_once.p99), Seconds(one),
                                               at_once.p50 > kQueueing * explained
                                                   ? "requests queue beyond what the prefills before them take"
                                                   : "they wait for each other's prefill")});
}

void WhereTimeGoes(const Record& record, std::vector<Finding>* findings) {
  for (const char* phase : {"own", "average"}) {
    double first = 0, total = 0, tokens = 0, prompt = 0;
    for (const Request& request : record.requests) {
      if (request.phase != phase || request.warm || !request.answer.ok()) continue;
      first += absl::ToDoubleSeconds(request.answer.timing.first);
      total += absl::ToDoubleSeconds(request.answer.timing.total);
      tokens += static_cast<double>(request.answer.completion_tokens);
      prompt += static_cast<double>(request.answer.prompt_tokens);
    }
    if (total == 0) continue;
    const double share = first / total;
    const bool prefill = share > kPrefillShare;
    findings->push_back({prefill ? "prefill_bound" : "decode_bound",
                         fmt::format("{}: {:.0f} % of a cold request's time passes before its first token ({:.1f} prompt tokens for each generated).",
                                     prefill ? "Prefill-bound" : "Decode-bound", 100 * share, prompt / std::max(1.0, tokens))});
    return;
  }
}

void Pressure(const Record& record, std::vector<Finding>* findings) {
  double preemptions = 0, usage = 0;
  std::string phase;
  for (const auto& [name, counters] : record.counters) {
    preemptions += counters.preemptions.value_or(0);
    if (counters.usage.value_or(0) > usage) usage = *counters.usage, phase = name;
  }
  if (preemptions > 0) {
    findings->push_back({"preemption", fmt::format("The engine threw out and computed again {:.0f} request(s): its KV pool is too small for what runs at a time.",
                                                   preemptions)});
  }
  if (usage > kUsageHigh) {
    findings->push_back({"cache_pressure", fmt::format("Cache pressure: {:.0f} % of the KV pool in use after '{}'.", 100 * usage, phase)});
  }
}

void Failures(const Record& record, std::vector<Finding>* findings) {
  uint64_t failed = 0, asked = 0;
  std::string last;
  std::vector<std::string> odd;
  for (const Request& request : record.requests) {
    ++asked;
    if (!request.answer.ok()) ++failed, last = request.answer.error;
    for (const std::string& what : request.answer.oddities) {
      const std::string text = fmt::format("{}: {}", request.phase, what);
      if (std::find(odd.begin(), odd.end(), text) == odd.end()) odd.push_back(text);
    }
  }
  if (failed > 0) findings->insert(findings->begin(), {"failing", fmt::format("{} of {} requests failed; the last: {}", failed, asked, last)});
  if (odd.empty()) return;
  std::string text = fmt::format("What it says does not fit together, or it took what it should refuse ({}):", odd.size());
  for (size_t i = 0; i < std::min<size_t>(odd.size(), 5); ++i) text += " " + odd[i] + ";";
  findings->push_back({"odd", text});
}

std::string Row(const Record& record, const std::string& phase, bool warm) {
  const Spread first = SpreadOf(FirstTokenSeconds(record, phase, warm));
  if (first.count == 0) return "";
  const Spread speed = SpreadOf(TokensPerSecond(record, phase, warm)), gap = SpreadOf(GapSeconds(record, phase, warm));
  double prompt = 0, cached = 0;
  for (const Request& request : record.requests) {
    if (request.phase != phase || request.warm != warm || !request.answer.ok()) continue;
    prompt += static_cast<double>(request.answer.prompt_tokens);
    cached += static_cast<double>(request.answer.cached_tokens);
  }
  return fmt::format("  {:<11} {:<5} {:>4} {:>8.0f} {:>9} {:>9} {:>9} {:>9.1f} {:>9} {:>9}{}\n", phase, warm ? "warm" : "cold", first.count,
                     prompt / static_cast<double>(first.count), Seconds(first.p50), Seconds(first.p95), Seconds(first.p99), speed.p50,
                     Seconds(gap.p50), Seconds(gap.p99), cached > 0 ? fmt::format("   {:.0f} % cached, it says", 100 * cached / prompt) : "");
}

}  // namespace

double ColdOverWarm(const Record& record, const std::string& phase) {
  const Spread cold = SpreadOf(FirstTokenSeconds(record, phase, false)), warm = SpreadOf(FirstTokenSeconds(record, phase, true));
  return cold.count == 0 || warm.count == 0 || warm.p50 == 0 ? 0 : cold.p50 / warm.p50;
}

std::vector<Finding> VerdictOf(const Record& record) {
  std::vector<Finding> findings;
  PrefixCache(record, &findings);
  WhereTimeGoes(record, &findings);
  Queueing(record, &findings);
  Pressure(record, &findings);
  Failures(record, &findings);
  if (findings.empty()) findings.push_back({"nothing", "Nothing could be measured."});
  return findings;
}

std::string RecordText(const Record& record) {
  std::string text = fmt::format("{} ({} {}), {} at {}\n", record.model, record.engine, record.version.empty() ? "of unknown version" : record.version,
                                 record.api, record.url);
  if (!record.whole) text += "NOT WHOLE: it was given up before the end\n";
  text += "\nVerdict\n";
  for (const Finding& finding : VerdictOf(record)) text += fmt::format("  - {}\n", finding.text);
  text += fmt::format("\n  {:<11} {:<5} {:>4} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "prompts", "", "n", "tokens", "TTFT p50", "p95", "p99",
                      "tokens/s", "gap p50", "p99");
  for (const char* phase : kCold) {
    for (const bool warm : {false, true}) text += Row(record, phase, warm);
  }
  for (const char* phase : {"turns", "concurrent"}) {
    for (const bool warm : {false, true}) text += Row(record, phase, warm);
  }
  for (const auto& [phase, counters] : record.counters) {
    if (!counters.hits_tokens || !counters.queries_tokens || *counters.queries_tokens == 0) continue;
    text += fmt::format("  engine, {:<14} hits {:.0f} of {:.0f} tokens ({:.0f} %)", phase, *counters.hits_tokens, *counters.queries_tokens,
                        100 * *counters.hits_tokens / *counters.queries_tokens);
    const bool connected = counters.external_queries_tokens.value_or(0) > 0;
    text += connected ? fmt::format(", from its connector {:.0f}\n", counters.external_hits_tokens.value_or(0)) : "\n";
  }
  const Memory& memory = record.memory;
  if (memory.before_bytes > 0) {
    text += fmt::format("  memory of the engine: {} before generation, {} after prefill, {} after decoding\n", Size(memory.before_bytes),
                        Size(memory.first_token_bytes), Size(memory.decode_bytes));
  }
  for (const std::string& note : record.notes) text += fmt::format("  note: {}\n", note);
  return text;
}

}  // namespace stem::profile
