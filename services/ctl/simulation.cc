#include "services/ctl/simulation.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "storage/policy/belady.h"
#include "storage/policy/leaf_first.h"

namespace stem {
namespace {

// So many tokens of context cost as much again, in attention, as everything else that a token costs: about what an 8B model has.
constexpr double kAttentionParityTokens = 32768;

// Work of computing the first `tokens` of a prompt, in units of a token without context.
double PrefillWork(uint64_t tokens) {
  const auto n = static_cast<double>(tokens);
  return n + n * n / (2 * kAttentionParityTokens);
}

// Processor time of this thread: others may want the machine too.
double ThreadSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace

Simulation::Simulation(const SimulateOptions& options, const SimulatedPolicy& policy, uint64_t capacity_blocks,
                       uint32_t block_tokens)
    : options_(options), block_tokens_(block_tokens) {
  result_.policy = policy.name();
  result_.capacity_blocks = capacity_blocks;
  const uint64_t capacity = std::max<uint64_t>(capacity_blocks >> options.sample_shift, 1);
  const uint64_t ssd = options.ssd_blocks >> options.sample_shift;
  for (uint32_t i = 0; i < options.nodes; ++i) {
    SimulatedNode::Tiers tiers{.dram_blocks = capacity, .ssd_blocks = ssd, .admission = options.admission};
    tiers.closed = options.leaf_first || policy.kind == PolicyKind::kStem;
    if (policy.kind.has_value()) {
      tiers.dram = MakePolicy(*policy.kind, capacity);
    } else {
      tiers.dram = std::make_unique<BeladyPolicy>([this](uint64_t block) { return next_use_[block]; });
    }
    if (options.leaf_first && policy.kind != PolicyKind::kStem) tiers.dram = std::make_unique<LeafFirst>(std::move(tiers.dram));
    if (ssd > 0) tiers.ssd = tiers.closed ? MakeLeafFirstPolicy(PolicyKind::kLru, ssd) : MakePolicy(PolicyKind::kLru, ssd);
    nodes_.push_back(std::make_unique<SimulatedNode>(std::move(tiers)));
  }
}

void Simulation::Serve(const PreparedBatch& batch) {
  const double start = ThreadSeconds();
  const bool clairvoyant = result_.policy == SimulatedPolicy().name();
  std::vector<uint64_t> numbers;
  for (const PreparedRequest& prepared : batch.requests) {
    SimulatedRequest request{.blocks = std::span(batch.blocks).subspan(prepared.first, prepared.count),
                             .keys = std::span(batch.keys).subspan(prepared.first, prepared.count),
                             .number = prepared.number,
                             .conversation = prepared.conversation};
    if (clairvoyant) {
      numbers.assign(request.blocks.begin(), request.blocks.end());  // it asks for the next use by number
      request.keys = numbers;
      for (size_t i = 0; i < prepared.count; ++i) {
        const uint32_t block = request.blocks[i];
        if (block >= next_use_.size()) next_use_.resize(block + size_t{1});
        next_use_[block] = batch.next_use[prepared.first + i];
      }
    }
    ServeOne(request, prepared);
  }
  result_.seconds += ThreadSeconds() - start;
}

SimulatedNode& Simulation::Route(const SimulatedRequest& request, uint64_t session) {
  const size_t in_turn = (request.number - 1) % nodes_.size();
  if (options_.routing == Routing::kSession) return *nodes_[session % nodes_.size()];
  if (options_.routing == Routing::kRoundRobin) return *nodes_[in_turn];
  size_t best = in_turn, most = 0;
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const size_t node = (in_turn + i) % nodes_.size();
    const size_t held = nodes_[node]->HeldFrom(request, 0);
    if (held > most) most = held, best = node;
  }
  return *nodes_[best];
}

void Simulation::ServeOne(const SimulatedRequest& request, const PreparedRequest& prepared) {
  SimulatedNode& mine = nodes_.size() == 1 ? *nodes_[0] : Route(request, prepared.session);
  const size_t local = mine.HeldFrom(request, 0);
  size_t matched = local;
  SimulatedNode* owner = nullptr;
  for (const auto& node : nodes_) {
    if (node.get() == &mine) continue;
    const size_t reach = node->HeldFrom(request, local);
    if (reach > matched) matched = reach, owner = node.get();
  }
  if (prepared.counted) {
    for (size_t i = 0; i < local; ++i) result_.blocks_hit_ssd += mine.in_dram(request.blocks[i]) ? 0 : 1;
    const uint64_t tokens_matched = std::min<uint64_t>(matched * block_tokens_, prepared.tokens);
    result_.blocks += request.blocks.size();
    result_.blocks_hit += matched;
    result_.blocks_hit_remote += matched - local;
    result_.tokens += prepared.tokens;
    result_.tokens_hit += tokens_matched;
    result_.prefill += PrefillWork(prepared.tokens);
    result_.prefill_saved += PrefillWork(tokens_matched);
  }
  if (owner != nullptr) {
    owner->Use(request, local, matched, true);  // a lease is a use at its owner
    owner->Settle();
  }
  mine.Use(request, 0, request.blocks.size(), false);
  mine.Settle();
}

SimulateResult Simulation::Finish() {
  for (const auto& node : nodes_) {
    result_.orphan_blocks += node->Orphans();
    result_.ssd_writes += node->ssd_writes();
  }
  return result_;
}

}  // namespace stem
