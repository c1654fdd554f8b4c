#include "services/ctl/replay_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "proto/miss_cause.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;
using Json = nlohmann::json;

double Rate(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// JSON without digits that the measurement does not carry.
double Rounded(double value, double step) { return std::round(value / step) * step; }

Json QuantilesUs(const LatencyHistogram& histogram) {
  return {{"p50", Rounded(histogram.QuantileUs(0.50), 0.001)},
          {"p95", Rounded(histogram.QuantileUs(0.95), 0.001)},
          {"p99", Rounded(histogram.QuantileUs(0.99), 0.001)}};
}

std::string LatencyRow(const char* name, const LatencyHistogram& histogram) {
  return fmt::format("  {:<10}{:>10.0f}{:>10.0f}{:>10.0f}   ({} measured)\n", name, histogram.QuantileUs(0.50),
                     histogram.QuantileUs(0.95), histogram.QuantileUs(0.99), histogram.count());
}

std::string PathRow(const char* name, uint64_t blocks, uint64_t all, uint64_t bytes) {
  return fmt::format("  {:<22}{:>12}{:>9.2f} %{:>12.2f} GB\n", name, blocks, 100 * Rate(blocks, all),
                     static_cast<double>(bytes) / 1e9);
}

template <size_t n>
void AddEach(std::array<uint64_t, n>* sum, const std::array<uint64_t, n>& other) {
  for (size_t i = 0; i < n; ++i) (*sum)[i] += other[i];
}

uint64_t SsdOf(const std::array<uint64_t, ReplayTally::kSources>& by_source) {
  return by_source[v1::SOURCE_LOCAL_SSD] + by_source[v1::SOURCE_REMOTE_SSD];
}

}  // namespace

void ReplayTally::Add(const ReplayTally& other) {
  requests += other.requests;
  prompt_tokens += other.prompt_tokens;
  matched_tokens += other.matched_tokens;
  AddEach(&hits, other.hits);
  AddEach(&bytes_loaded, other.bytes_loaded);
  AddEach(&misses, other.misses);
  AddEach(&miss_tokens, other.miss_tokens);
  bytes_published += other.bytes_published;
  mismatches += other.mismatches;
  for (const std::string& example : other.mismatch_examples) {
    if (mismatch_examples.size() < kMismatchExamplesMax) mismatch_examples.push_back(example);
  }
  publish.committed += other.publish.committed;
  publish.duplicate += other.publish.duplicate;
  publish.not_wanted += other.publish.not_wanted;
  publish.refused += other.publish.refused;
  if (publish.refused_reason.empty()) publish.refused_reason = other.publish.refused_reason;
  publish.failed += other.publish.failed;
  match_latency.Add(other.match_latency);
  acquire_latency.Add(other.acquire_latency);
  load_latency.Add(other.load_latency);
  publish_latency.Add(other.publish_latency);
}

uint64_t ReplayTally::hit_blocks() const { return std::accumulate(hits.begin(), hits.end(), uint64_t{0}); }

uint64_t ReplayTally::miss_blocks() const { return std::accumulate(misses.begin(), misses.end(), uint64_t{0}); }

double ReplayTally::block_hit_rate() const { return Rate(hit_blocks(), hit_blocks() + miss_blocks()); }

double ReplayTally::token_hit_rate() const { return Rate(matched_tokens, prompt_tokens); }

std::string ReplayReport::Definition() const {
  return fmt::format(
      "hit rate = blocks loaded and checked / blocks asked for, from the first request on (cold start included), "
      "strict prefixes, the last partial block of a prompt {}",
      partial == PartialBlock::kCount ? "counted as a full one" : "dropped");
}

Json ReplayReport::ToJson() const {
  Json misses = Json::object();
  Json miss_tokens = Json::object();
  for (int cause = v1::MissCause_MIN; cause <= v1::MissCause_MAX; ++cause) {
    const auto index = static_cast<size_t>(cause);
    if (tally.misses[index] > 0) misses[CauseName(static_cast<v1::MissCause>(cause))] = tally.misses[index];
    if (tally.miss_tokens[index] > 0) {
      miss_tokens[CauseName(static_cast<v1::MissCause>(cause))] = tally.miss_tokens[index];
    }
  }
  return {
      {"requests", tally.requests},
      {"prompt_tokens", tally.prompt_tokens},
      {"matched_tokens", tally.matched_tokens},
      {"miss_tokens", miss_tokens},
      {"token_hit_rate", Rounded(tally.token_hit_rate(), 1e-6)},
      {"block_hit_rate", Rounded(tally.block_hit_rate(), 1e-6)},
      {"hit_rate_definition", Definition()},
      {"blocks",
       {{"local_dram", tally.hits[v1::SOURCE_LOCAL_DRAM]},
        {"remote_dram", tally.hits[v1::SOURCE_REMOTE_DRAM]},
        {"ssd", SsdOf(tally.hits)},
        {"miss", misses}}},
      {"bytes",
       {{"published", tally.bytes_published},
        {"local", tally.bytes_loaded[v1::SOURCE_LOCAL_DRAM]},
        {"remote", tally.bytes_loaded[v1::SOURCE_REMOTE_DRAM]},
        {"ssd", SsdOf(tally.bytes_loaded)}}},
      {"publish",
       {{"committed", tally.publish.committed},
        {"duplicate", tally.publish.duplicate},
        {"not_wanted", tally.publish.not_wanted},
        {"refused", tally.publish.refused},
        {"refused_reason", tally.publish.refused_reason},
        {"failed", tally.publish.failed}}},
      {"mismatches", tally.mismatches},
      {"mismatch_examples", tally.mismatch_examples},
      {"latency_us",
       {{"match", QuantilesUs(tally.match_latency)},
        {"acquire", QuantilesUs(tally.acquire_latency)},
        {"load", QuantilesUs(tally.load_latency)},
        {"publish", QuantilesUs(tally.publish_latency)}}},
      {"wall_s", Rounded(absl::ToDoubleSeconds(wall), 0.001)},
  };
}

std::string ReplayReport::ToTable() const {
  const uint64_t blocks = tally.hit_blocks() + tally.miss_blocks();
  const double wall_s = std::max(absl::ToDoubleSeconds(wall), 1e-9);
  std::string out = fmt::format("requests {}   prompt tokens {}   matched tokens {} ({:.2f} %)   mismatches {}\n",
                                tally.requests, tally.prompt_tokens, tally.matched_tokens, 100 * tally.token_hit_rate(),
                                tally.mismatches);
  out += fmt::format("wall {:.1f} s   {:.0f} requests/s   block hit rate {:.4f}\n  ({})\n", wall_s,
                     static_cast<double>(tally.requests) / wall_s, tally.block_hit_rate(), Definition());
  out += fmt::format("\n  {:<22}{:>12}{:>11}{:>15}\n", "blocks served from", "blocks", "share", "moved");
  out += PathRow("local DRAM", tally.hits[v1::SOURCE_LOCAL_DRAM], blocks, tally.bytes_loaded[v1::SOURCE_LOCAL_DRAM]);
  out += PathRow("remote DRAM", tally.hits[v1::SOURCE_REMOTE_DRAM], blocks, tally.bytes_loaded[v1::SOURCE_REMOTE_DRAM]);
  out += PathRow("SSD", SsdOf(tally.hits), blocks, SsdOf(tally.bytes_loaded));
  for (int cause = v1::MissCause_MIN; cause <= v1::MissCause_MAX; ++cause) {
    const uint64_t missed = tally.misses[static_cast<size_t>(cause)];
    if (missed == 0) continue;
    out += fmt::format("  {:<22}{:>12}{:>9.2f} %\n", "missed: " + CauseName(static_cast<v1::MissCause>(cause)), missed,
                       100 * Rate(missed, blocks));
  }
  out += fmt::format("\n  published {} blocks, {:.2f} GB; not wanted {}, duplicate {}, refused {}, failed {}\n",
                     tally.publish.committed, static_cast<double>(tally.bytes_published) / 1e9,
                     tally.publish.not_wanted, tally.publish.duplicate, tally.publish.refused, tally.publish.failed);
  if (tally.publish.refused > 0) out += fmt::format("  refused first: {}\n", tally.publish.refused_reason);
  out += fmt::format("\n  {:<10}{:>10}{:>10}{:>10}\n", "us", "p50", "p95", "p99");
  out += LatencyRow("match", tally.match_latency);
  out += LatencyRow("acquire", tally.acquire_latency);
  out += LatencyRow("load", tally.load_latency);
  out += LatencyRow("publish", tally.publish_latency);
  for (const std::string& example : tally.mismatch_examples) out += fmt::format("  MISMATCH: {}\n", example);
  return out;
}

}  // namespace stem
