// What an engine's /metrics page says about its caches and queues. Names: vllm/v1/metrics/loggers.py, sglang/srt/observability/
// metrics_collector.py.
#pragma once

#include <map>
#include <optional>
#include <string>

#include <nlohmann/json_fwd.hpp>

namespace stem::profile {

// Counters and gauges of one scrape, summed over labels; absent = the page has no such series.
struct EngineCounters {
  std::optional<double> queries_tokens, hits_tokens;                    // the engine's own prefix cache
  std::optional<double> external_queries_tokens, external_hits_tokens;  // a connector's
  std::optional<double> preemptions;
  std::optional<double> usage;     // of the KV pool, 0..1
  std::optional<double> waiting;   // requests

  bool any() const { return queries_tokens || hits_tokens || external_hits_tokens || preemptions || usage; }
};

// Sum of each series over its labels, by name without "_total". Lines that are none are skipped.
std::map<std::string, double> ReadSeries(const std::string& page);

EngineCounters CountersOf(const std::map<std::string, double>& series);

// What happened between two scrapes: differences of counters; of gauges the later value. A counter that fell (a restart) is absent.
EngineCounters Between(const EngineCounters& before, const EngineCounters& after);

nlohmann::json ToJson(const EngineCounters& counters);

}  // namespace stem::profile
