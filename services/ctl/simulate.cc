#include "services/ctl/simulate.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <thread>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "services/ctl/simulation.h"
#include "services/ctl/trace_batches.h"

namespace stem {
namespace {

constexpr uint32_t kNever = ~uint32_t{0};

// By reference, the place of the next to the same block.
absl::StatusOr<std::vector<uint32_t>> NextUses(const SimulateOptions& options) {
  STEM_ASSIGN(const std::unique_ptr<TraceBatches> reader, TraceBatches::Open(options));
  PreparedBatch batch;
  std::vector<uint32_t> blocks;
  for (;;) {
    STEM_ASSIGN(const bool more, reader->Next(&batch));
    if (!more) break;
    blocks.insert(blocks.end(), batch.blocks.begin(), batch.blocks.end());
  }
  std::vector<uint32_t> seen(reader->distinct_blocks(), kNever), next(blocks.size());
  for (size_t i = blocks.size(); i-- > 0;) next[i] = std::exchange(seen[blocks[i]], static_cast<uint32_t>(i));
  return next;
}

// For the progress bar: lines of the trace, 0 when it cannot be read.
uint64_t CountLines(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  uint64_t lines = 0;
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    lines += static_cast<uint64_t>(std::count(buffer.begin(), buffer.begin() + in.gcount(), '\n'));
  }
  return lines;
}

void ServeAll(std::vector<std::unique_ptr<Simulation>>& simulations, const PreparedBatch& batch, size_t threads) {
  const auto serve_every = [&](size_t first) {
    for (size_t i = first; i < simulations.size(); i += threads) simulations[i]->Serve(batch);
  };
  std::vector<std::jthread> others;
  for (size_t thread = 1; thread < std::min(threads, simulations.size()); ++thread) others.emplace_back(serve_every, thread);
  serve_every(0);
}

absl::Status CheckOptions(const SimulateOptions& options) {
  if (options.policies.empty()) return absl::InvalidArgumentError("--policy: name at least one");
  if (options.capacities_blocks.empty()) return absl::InvalidArgumentError("--capacity-blocks: give at least one");
  for (const uint64_t capacity : options.capacities_blocks) {
    if (capacity < 1 || capacity > kNoBlock / 2) {
      return absl::InvalidArgumentError(absl::StrFormat("--capacity-blocks %d; must be 1..%d", capacity, kNoBlock / 2));
    }
  }
  if (options.nodes < 1 || options.nodes > 1024) {
    return absl::InvalidArgumentError(absl::StrFormat("--nodes %d; must be 1..1024", options.nodes));
  }
  return absl::OkStatus();
}

}  // namespace

std::string HitRateDefinition(const SimulateOptions& options) {
  return absl::StrCat(
      "of all prompt blocks, ",
      options.warmup_requests == 0 ? std::string("cold start") : absl::StrCat("after a warm-up of ", options.warmup_requests, " requests"),
      ", strict prefix, partial last block ", options.partial == PartialBlock::kCount ? "counted as a block" : "left out",
      options.hints == SimulatedHints::kNone           ? ""
      : options.hints == SimulatedHints::kConversation ? ", engines tell conversations"
                                                       : ", engines tell conversations and whether they go on",
      options.sample_shift == 0 ? "" : absl::StrCat(", from a sample of one block in ", 1 << options.sample_shift));
}

std::string SimulatedPolicy::name() const { return kind.has_value() ? std::string(NameOf(*kind)) : "belady"; }

absl::StatusOr<SimulatedPolicy> ParseSimulatedPolicy(absl::string_view name) {
  if (name == "belady") return SimulatedPolicy();
  const absl::StatusOr<PolicyKind> kind = ParsePolicy(name);
  if (kind.ok()) return SimulatedPolicy{*kind};
  return absl::InvalidArgumentError(absl::StrCat(kind.status().message(), ", belady"));
}

absl::StatusOr<SimulateReport> RunSimulation(const SimulateOptions& options, Progress* progress) {
  STEM_TRY(CheckOptions(options));
  STEM_ASSIGN(const std::unique_ptr<TraceBatches> reader, TraceBatches::Open(options));
  std::vector<std::unique_ptr<Simulation>> simulations;
  bool clairvoyant = false;
  for (const SimulatedPolicy& policy : options.policies) {
    clairvoyant = clairvoyant || !policy.kind.has_value();
    for (const uint64_t capacity : options.capacities_blocks) {
      simulations.push_back(std::make_unique<Simulation>(options, policy, capacity, reader->block_tokens()));
    }
  }
  std::vector<uint32_t> next_uses;
  if (clairvoyant) {
    STEM_ASSIGN(next_uses, NextUses(options));
  }
  const size_t threads = options.threads > 0 ? options.threads : std::max(1u, std::thread::hardware_concurrency());
  const uint64_t lines = progress == nullptr ? 0 : CountLines(options.trace);
  const uint64_t requests_total = options.requests_max == 0 ? lines : std::min(options.requests_max, lines);
  const absl::Time start = absl::Now();
  absl::Time shown = start;
  PreparedBatch batch;
  for (;;) {
    const uint64_t first = reader->references();
    STEM_ASSIGN(const bool more, reader->Next(&batch));
    if (!more) break;
    if (clairvoyant) {
      batch.next_use.assign(next_uses.begin() + static_cast<ptrdiff_t>(first),
                            next_uses.begin() + static_cast<ptrdiff_t>(reader->references()));
    }
    ServeAll(simulations, batch, threads);
    if (progress != nullptr && absl::Now() - shown >= progress->interval()) {
      shown = absl::Now();
      const SimulateResult& so_far = simulations.front()->so_far();
      progress->Show({.requests = reader->requests(),
                      .requests_total = requests_total,
                      .blocks = so_far.blocks,
                      .blocks_hit = so_far.blocks_hit,
                      .elapsed = shown - start});
    }
  }
  if (progress != nullptr) progress->End();
  SimulateReport report{.definition = HitRateDefinition(options),
                        .requests = reader->requests(),
                        .references = reader->references(),
                        .distinct_blocks = reader->distinct_blocks()};
  for (const auto& simulation : simulations) report.results.push_back(simulation->Finish());
  return report;
}

nlohmann::json SimulateReport::ToJson() const {
  const auto rounded = [](double value) { return std::round(value * 1e6) / 1e6; };
  nlohmann::json rows = nlohmann::json::array();
  for (const SimulateResult& result : results) {
    rows.push_back({{"policy", result.policy},
                    {"capacity_blocks", result.capacity_blocks},
                    {"block_hit_rate", rounded(result.block_hit_rate())},
                    {"token_hit_rate", rounded(result.token_hit_rate())},
                    {"prefill_saved_fraction", rounded(result.prefill_saved_fraction())},
                    {"orphan_blocks", result.orphan_blocks},
                    {"blocks", result.blocks},
                    {"blocks_hit", result.blocks_hit},
                    {"blocks_hit_remote", result.blocks_hit_remote},
                    {"blocks_hit_ssd", result.blocks_hit_ssd},
                    {"ssd_writes", result.ssd_writes},
                    {"references_per_s", std::round(static_cast<double>(references) / std::max(result.seconds, 1e-9))}});
  }
  return {{"requests", requests},
          {"block_references", references},
          {"distinct_blocks", distinct_blocks},
          {"hit_rate_definition", definition},
          {"results", rows}};
}

std::string SimulateReport::ToTable() const {
  std::string out = fmt::format("requests {}   block references {}   distinct blocks {}\nhit rates: {}\n\n", requests, references,
                                distinct_blocks, definition);
  out += fmt::format("{:<10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}\n", "policy", "capacity", "blocks", "tokens", "prefill",
                     "remote", "ssd", "orphans", "M blocks/s");
  for (const SimulateResult& result : results) {
    const double blocks = std::max<double>(static_cast<double>(result.blocks), 1);
    out += fmt::format("{:<10}{:>10}{:>10.4f}{:>10.4f}{:>10.4f}{:>10.4f}{:>10.4f}{:>10}{:>12.2f}\n", result.policy,
                       result.capacity_blocks, result.block_hit_rate(), result.token_hit_rate(),
                       result.prefill_saved_fraction(), static_cast<double>(result.blocks_hit_remote) / blocks,
                       static_cast<double>(result.blocks_hit_ssd) / blocks, result.orphan_blocks,
                       static_cast<double>(references) / std::max(result.seconds, 1e-9) / 1e6);
  }
  return out;
}

}  // namespace stem
