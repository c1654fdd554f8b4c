#include "services/ctl/profile/engine_counters.h"

#include <initializer_list>

#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace stem::profile {
namespace {

std::optional<double> First(const std::map<std::string, double>& series, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto found = series.find(name);
    if (found != series.end()) return found->second;
  }
  return std::nullopt;
}

std::optional<double> Difference(const std::optional<double>& before, const std::optional<double>& after) {
  if (!before || !after || *after < *before) return std::nullopt;
  return *after - *before;
}

}  // namespace

std::map<std::string, double> ReadSeries(const std::string& page) {
  std::map<std::string, double> series;
  for (absl::string_view line : absl::StrSplit(page, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    const size_t brace = line.find('{');
    const size_t close = line.rfind('}');
    const size_t name_end = std::min(brace, line.find(' '));
    if (name_end == absl::string_view::npos) continue;
    absl::string_view rest = brace == absl::string_view::npos ? line.substr(name_end)
                             : close == absl::string_view::npos ? absl::string_view()
                                                                : line.substr(close + 1);
    rest = absl::StripAsciiWhitespace(rest);
    double value = 0;
    if (!absl::SimpleAtod(rest.substr(0, rest.find(' ')), &value)) continue;
    series[std::string(absl::StripSuffix(line.substr(0, name_end), "_total"))] += value;
  }
  return series;
}

EngineCounters CountersOf(const std::map<std::string, double>& series) {
  EngineCounters counters;
  counters.queries_tokens = First(series, {"vllm:prefix_cache_queries", "sglang:prompt_tokens"});
  counters.hits_tokens = First(series, {"vllm:prefix_cache_hits", "sglang:cached_tokens"});
  counters.external_queries_tokens = First(series, {"vllm:external_prefix_cache_queries"});
  counters.external_hits_tokens = First(series, {"vllm:external_prefix_cache_hits"});
  counters.preemptions = First(series, {"vllm:num_preemptions", "sglang:num_retracted_reqs"});
  counters.usage = First(series, {"vllm:kv_cache_usage_perc", "sglang:token_usage"});
  counters.waiting = First(series, {"vllm:num_requests_waiting", "sglang:num_queue_reqs"});
  return counters;
}

EngineCounters Between(const EngineCounters& before, const EngineCounters& after) {
  EngineCounters between = after;
  between.queries_tokens = Difference(before.queries_tokens, after.queries_tokens);
  between.hits_tokens = Difference(before.hits_tokens, after.hits_tokens);
  between.external_queries_tokens = Difference(before.external_queries_tokens, after.external_queries_tokens);
  between.external_hits_tokens = Difference(before.external_hits_tokens, after.external_hits_tokens);
  between.preemptions = Difference(before.preemptions, after.preemptions);
  return between;
}

nlohmann::json ToJson(const EngineCounters& counters) {
  nlohmann::json json = nlohmann::json::object();
  const auto add = [&](const char* name, const std::optional<double>& value) {
    if (value) json[name] = *value;
  };
  add("prefix_cache_queries_tokens", counters.queries_tokens);
  add("prefix_cache_hits_tokens", counters.hits_tokens);
  add("external_queries_tokens", counters.external_queries_tokens);
  add("external_hits_tokens", counters.external_hits_tokens);
  add("preemptions", counters.preemptions);
  add("kv_usage", counters.usage);
  add("waiting", counters.waiting);
  return json;
}

}  // namespace stem::profile
