// How much `stem` ever loses: against the best of the plain classic policies, on traces of very different kinds, at capacities from 100
// blocks to nearly all. `policy_grid [--small] [MOONCAKE_TRACE...]` prints every cell, and exits 1 when one is worse than allowed:
// 2 % of the best or 0.003, whichever is more.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/ctl/simulate.h"
#include "services/ctl/trace.h"
#include "services/ctl/workload.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr uint32_t kBlockTokens = 64;
constexpr const char* kRivals[] = {"lru", "lfu", "arc", "s3fifo", "sieve", "wtinylfu"};

using Blocks = std::vector<uint64_t>;

// Makes the requests of one synthetic trace.
class Maker {
 public:
  explicit Maker(uint64_t seed, size_t requests) : random_(seed), requests_(requests) {}

  std::vector<Blocks> out;

  bool done() const { return out.size() >= requests_; }
  size_t requests() const { return requests_; }
  double Uniform() { return static_cast<double>(random_() >> 11) * 0x1.0p-53; }
  size_t Below(size_t count) { return random_() % count; }
  size_t Exponential(double mean) { return static_cast<size_t>(-std::log(1 - Uniform()) * mean); }
  // By Zipf's law with this exponent, approximately: the continuous law's inverse.
  size_t Zipf(size_t count, double exponent) {
    const double n = static_cast<double>(count) + 1, u = Uniform();
    const double rank = std::abs(exponent - 1) < 1e-6 ? std::pow(n, u)
                                                      : std::pow(u * (std::pow(n, 1 - exponent) - 1) + 1, 1 / (1 - exponent));
    return std::min(static_cast<size_t>(rank) - 1, count - 1);
  }
  Blocks Fresh(size_t count) {
    Blocks blocks(count);
    for (uint64_t& block : blocks) block = next_++;
    return blocks;
  }
  std::vector<Blocks> Items(size_t count, size_t blocks) {
    std::vector<Blocks> items;
    for (size_t i = 0; i < count; ++i) items.push_back(Fresh(1 + Exponential(static_cast<double>(blocks))));
    return items;
  }
  void Emit(Blocks blocks, size_t tail) {
    const Blocks end = Fresh(tail);
    blocks.insert(blocks.end(), end.begin(), end.end());
    out.push_back(std::move(blocks));
  }

 private:
  std::mt19937_64 random_;
  const size_t requests_;
  uint64_t next_ = 0;
};

// Conversations over heavy system prompts, interleaved at random.
void Chat(Maker& maker, size_t conversations, size_t system_blocks, double turns, double growth) {
  const std::vector<Blocks> systems = maker.Items(16, system_blocks);
  std::vector<Blocks> open(conversations);
  while (!maker.done()) {
    Blocks& chat = open[std::min(maker.Exponential(static_cast<double>(conversations) / 4), conversations - 1)];
    if (chat.empty() || maker.Uniform() < 1 / turns || chat.size() > 400) chat = systems[maker.Zipf(systems.size(), 1)];
    const Blocks said = maker.Fresh(1 + maker.Exponential(growth));
    chat.insert(chat.end(), said.begin(), said.end());
    maker.Emit(chat, 1);
  }
}

void Documents(Maker& maker, size_t documents, double exponent) {
  const Blocks system = maker.Fresh(4);
  const std::vector<Blocks> items = maker.Items(documents, 20);
  while (!maker.done()) {
    Blocks prompt = system;
    const Blocks& document = items[maker.Zipf(documents, exponent)];
    prompt.insert(prompt.end(), document.begin(), document.end());
    maker.Emit(std::move(prompt), 3);
  }
}

// Agents whose context grows step by step, in turn.
void Agents(Maker& maker, size_t agents) {
  const std::vector<Blocks> tools = maker.Items(8, 15);
  std::vector<Blocks> contexts(agents);
  while (!maker.done()) {
    Blocks& context = contexts[maker.Below(agents)];
    if (context.empty() || maker.Uniform() < 1.0 / 30) context = tools[maker.Below(tools.size())];
    const Blocks step = maker.Fresh(1 + maker.Exponential(2));
    context.insert(context.end(), step.begin(), step.end());
    maker.Emit(context, 0);
  }
}

// Popular items between long prompts that never come again.
void Scans(Maker& maker) {
  const std::vector<Blocks> hot = maker.Items(300, 10);
  while (!maker.done()) {
    if (maker.Uniform() < 0.5) {
      maker.Emit(hot[maker.Zipf(hot.size(), 0.8)], 2);
    } else {
      maker.Emit({}, 20);
    }
  }
}

void Loop(Maker& maker, size_t items, size_t blocks) {
  const std::vector<Blocks> all = maker.Items(items, blocks);
  for (size_t i = 0; !maker.done(); ++i) maker.Emit(all[i % items], 0);
}

void UniformItems(Maker& maker) {
  const std::vector<Blocks> items = maker.Items(1500, 12);
  while (!maker.done()) maker.Emit(items[maker.Below(items.size())], 0);
}

// Many requests for one thing at once, then never again.
void Bursts(Maker& maker) {
  while (!maker.done()) {
    const Blocks base = maker.Fresh(12);
    for (size_t i = maker.Exponential(15) + 1; i > 0 && !maker.done(); --i) maker.Emit(base, 2);
  }
}

void Drift(Maker& maker) {
  const std::vector<Blocks> items = maker.Items(4000, 8);
  while (!maker.done()) {
    const double centre = static_cast<double>(maker.out.size()) * 4000 / static_cast<double>(maker.requests());
    maker.Emit(items[(static_cast<size_t>(centre) + maker.Exponential(150)) % items.size()], 1);
  }
}

// Single blocks, independent of each other.
void Independent(Maker& maker) {
  const Blocks blocks = maker.Fresh(50'000);
  while (!maker.done()) maker.Emit({blocks[maker.Zipf(blocks.size(), 0.9)]}, 0);
}

// One kind of load after the other.
void Phases(Maker& maker) {
  const auto phase = [&](size_t requests, const std::function<void(Maker&)>& make) {
    Maker part(maker.Below(1 << 30), requests);
    make(part);
    const uint64_t shift = maker.Fresh(2'000'000).front();  // ids of its own
    for (Blocks& blocks : part.out) {
      for (uint64_t& block : blocks) block += shift;
      maker.out.push_back(std::move(blocks));
    }
  };
  phase(maker.requests() / 4, Scans);
  phase(maker.requests() / 4, [](Maker& part) { Chat(part, 300, 12, 5, 3); });
  phase(maker.requests() / 4, [](Maker& part) { Loop(part, 300, 15); });
  phase(maker.requests() / 4, [](Maker& part) { Documents(part, 1500, 0.9); });
}

struct Trace {
  std::string name;
  std::string path;
  TraceFormat format = TraceFormat::kStem;
};

Trace Write(const std::string& directory, const std::string& name, const Maker& maker) {
  const Trace trace{.name = name, .path = absl::StrCat(directory, "/", name, ".jsonl")};
  std::string text = StemTraceHeader(kBlockTokens);
  for (size_t i = 0; i < maker.out.size(); ++i) {
    AppendStemTraceLine({.timestamp_ms = 100 * i, .input_tokens = maker.out[i].size() * kBlockTokens, .hash_ids = maker.out[i]}, &text);
  }
  std::FILE* const file = std::fopen(trace.path.c_str(), "we");
  if (file != nullptr) {
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
  }
  return trace;
}

std::vector<Trace> Traces(const std::string& directory, size_t requests) {
  const std::vector<std::pair<std::string, std::function<void(Maker&)>>> kinds = {
      {"chat", [](Maker& maker) { Chat(maker, 400, 12, 5, 4); }},
      {"chat_long", [](Maker& maker) { Chat(maker, 1500, 40, 8, 6); }},
      {"documents", [](Maker& maker) { Documents(maker, 3000, 1.0); }},
      {"documents_flat", [](Maker& maker) { Documents(maker, 2000, 0.6); }},
      {"agents", [](Maker& maker) { Agents(maker, 40); }},
      {"agents_many", [](Maker& maker) { Agents(maker, 400); }},
      {"scans", Scans},
      {"loop", [](Maker& maker) { Loop(maker, 500, 20); }},
      {"uniform", UniformItems},
      {"bursts", Bursts},
      {"drift", Drift},
      {"independent", Independent},
      {"phases", Phases}};
  std::vector<Trace> traces;
  uint64_t seed = 1;
  for (const auto& [name, make] : kinds) {
    Maker maker(seed++, name == "independent" ? 12 * requests : requests);
    make(maker);
    traces.push_back(Write(directory, name, maker));
  }
  WorkloadOptions workload;
  workload.requests = requests;
  traces.push_back({.name = "workload", .path = directory + "/workload.jsonl"});
  WriteWorkload(workload, traces.back().path).IgnoreError();
  return traces;
}

struct Tally {
  size_t cells = 0;
  size_t worse = 0;       // than allowed
  double gain = 0;        // of hit rate over the best rival, summed up
  double worst = -1e9;    // loss by what is allowed; 1 = just allowed
};

absl::Status RunTrace(const Trace& trace, Tally* tally) {
  SimulateOptions options{.trace = trace.path, .format = trace.format};
  options.policies.push_back(*ParseSimulatedPolicy("lru"));
  options.capacities_blocks = {100};
  STEM_ASSIGN(const SimulateReport sizes, RunSimulation(options, nullptr));
  options.policies = {*ParseSimulatedPolicy("stem")};
  for (const char* name : kRivals) options.policies.push_back(*ParseSimulatedPolicy(name));
  options.capacities_blocks.clear();
  for (const uint64_t capacity : {100, 300, 1000, 3000, 10'000, 30'000}) {
    if (capacity < sizes.distinct_blocks) options.capacities_blocks.push_back(capacity);
  }
  for (const double part : {0.3, 0.6, 0.95}) {
    options.capacities_blocks.push_back(static_cast<uint64_t>(part * static_cast<double>(sizes.distinct_blocks)));
  }
  STEM_ASSIGN(const SimulateReport report, RunSimulation(options, nullptr));
  const size_t capacities = options.capacities_blocks.size();
  for (size_t i = 0; i < capacities; ++i) {
    const double stem = report.results[i].block_hit_rate();
    size_t best = capacities + i;
    for (size_t other = best; other < report.results.size(); other += capacities) {
      if (report.results[other].block_hit_rate() > report.results[best].block_hit_rate()) best = other;
    }
    const double rival = report.results[best].block_hit_rate();
    const double loss = (rival - stem) / std::max(0.02 * rival, 0.003);
    std::printf("%-16s %8llu  stem %.4f  best %.4f %-9s %s\n", trace.name.c_str(),
                static_cast<unsigned long long>(options.capacities_blocks[i]), stem, rival,
                report.results[best].policy.c_str(), loss > 1 ? "WORSE THAN ALLOWED" : "");
    ++tally->cells;
    tally->worse += loss > 1 ? 1 : 0;
    tally->gain += stem - rival;
    tally->worst = std::max(tally->worst, loss);
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  const TempDirectory directory;
  const bool small = argc > 1 && std::string(argv[1]) == "--small";
  std::vector<Trace> traces = Traces(directory.path(), small ? 1500 : 15'000);
  for (int i = small ? 2 : 1; i < argc; ++i) traces.push_back({.name = "given", .path = argv[i], .format = TraceFormat::kMooncake});
  Tally tally;
  for (const Trace& trace : traces) {
    if (const absl::Status status = RunTrace(trace, &tally); !status.ok()) {
      std::fprintf(stderr, "policy_grid: %s\n", status.ToString().c_str());
      return 1;
    }
  }
  std::printf("block hit rates, cold start, strict prefix; %zu cells: %zu worse than allowed, worst %.2f of what is allowed, mean gain over the "
              "best rival %.4f\n",
              tally.cells, tally.worse, tally.worst, tally.gain / static_cast<double>(tally.cells));
  return tally.worse == 0 || small ? 0 : 1;
}

}  // namespace
}  // namespace stem

int main(int argc, char** argv) { return stem::Main(argc, argv); }
