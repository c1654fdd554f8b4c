#include "tests/bench/directory/filled_index.h"

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "tests/bench/directory/measure.h"

namespace stem::bench {
namespace {

constexpr uint64_t kChainsInTurn = 32;
constexpr size_t kFlushKeys = 1 << 16;
constexpr uint64_t kGhostsMax = 1 << 16;
constexpr uint64_t kBytesMax = 32ULL << 30;  // nothing is shed here
constexpr uint32_t kWindowBlocks = 64;  // of part 1, when it is asked for

}  // namespace

v1::Hello HelloOf(uint32_t node, uint64_t incarnation) {
  v1::Hello hello;
  hello.mutable_node()->set_node(absl::StrCat("node-", node));
  hello.mutable_node()->set_incarnation(incarnation);
  hello.mutable_node()->set_peer_address(absl::StrCat("10.0.", node / 256, ".", node % 256, ":7500"));
  hello.mutable_node()->set_host_id(absl::StrCat("host-", node));
  return hello;
}

FilledIndex::FilledIndex(const Shape& what)
    : shape(what), index({.bytes_max = kBytesMax, .ghosts_max = kGhostsMax}), membership(index, {.started = BenchNow()}) {}

SlotHandle FilledIndex::Join(uint32_t node) {
  const StreamTicket ticket = *membership.Join(HelloOf(node), BenchNow());
  const SlotHandle slot = *membership.BeginSnapshot(ticket);
  membership.EndSnapshot(ticket, 0, 0, BenchNow());
  return slot;
}

void FilledIndex::AddRun(SlotHandle slot, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent) {
  index.AddRun(slot, fingerprints, parent, v1::TIER_DRAM);
}

void FilledIndex::RemoveRun(SlotHandle slot, std::span<const uint64_t> fingerprints) {
  index.RemoveRun(slot, fingerprints, v1::MISS_CAUSE_EVICTED);
}

uint64_t FilledIndex::Fill(double* seconds) {
  for (uint32_t node = 0; node < shape.nodes(); ++node) slots.push_back(Join(node));
  uint64_t changes = 0;
  for (uint64_t first = 0; first < shape.chains(); first += kChainsInTurn) {
    const uint64_t last = std::min(first + kChainsInTurn, shape.chains());
    const uint32_t piece = shape.piece_blocks == 0 ? shape.chain_blocks : shape.piece_blocks;
    for (uint32_t begin = 0; begin < shape.chain_blocks; begin += piece) {
      for (uint64_t chain = first; chain < last; ++chain) {
        Pieces(chain, begin, piece);
        if (keys_.size() >= kFlushKeys) changes += Flush(seconds);
      }
    }
  }
  changes += Flush(seconds);
  const Clock::time_point begin = Clock::now();
  while (index.Step()) {
  }
  if (seconds != nullptr) *seconds += SecondsSince(begin);
  keys_ = {};
  runs_ = {};
  return changes;
}

// What all nodes hold of blocks first.. of one chain.
void FilledIndex::Pieces(uint64_t chain, uint32_t first, uint32_t count) {
  for (uint32_t node = 0; node < shape.nodes(); ++node) {
    const uint32_t last = std::min(shape.held(chain, node), first + count);
    if (first >= last) continue;
    Queue(node, chain, first, last, 0);
    if (!shape.holes) continue;
    for (uint32_t from = first; from < last;) {
      uint32_t to = from;
      while (to < last && !Shape::hole(chain, to)) ++to;
      if (to > from) Queue(node, chain, from, to, 1);
      from = to + 1;
    }
  }
}

void FilledIndex::Queue(uint32_t node, uint64_t chain, uint32_t first, uint32_t last, uint32_t part) {
  Run run{.node = node, .parent = std::nullopt, .first = keys_.size(), .count = last - first};
  if (first > 0) run.parent = FingerprintAt(chain, first - 1, part);
  for (uint32_t i = first; i < last; ++i) keys_.push_back(FingerprintAt(chain, i, part));
  runs_.push_back(run);
}

uint64_t FilledIndex::Flush(double* seconds) {
  const Clock::time_point begin = Clock::now();
  for (const Run& run : runs_) AddRun(slots[run.node], std::span(keys_).subspan(run.first, run.count), run.parent);
  if (seconds != nullptr) *seconds += SecondsSince(begin);
  const uint64_t changes = keys_.size();
  keys_.clear();
  runs_.clear();
  return changes;
}

MatchCall FilledIndex::CallOf(uint64_t chain, uint32_t depth) const {
  MatchCall call{.space = BenchSpace(), .keys = {}, .parts = {{.id = 0}}, .requester = ""};
  if (shape.holes) call.parts.push_back({.id = 1, .window_blocks = kWindowBlocks});
  MakeCall(chain, depth, call);
  return call;
}

void FilledIndex::MakeCall(uint64_t chain, uint32_t depth, MatchCall& call) const {
  call.keys.resize(std::min(depth, shape.blocks_of(chain)));
  for (uint32_t i = 0; i < call.keys.size(); ++i) call.keys[i] = KeyAt(chain, i);
}

uint32_t FilledIndex::MatchedOf(uint64_t chain, uint32_t depth) const {
  const uint32_t blocks = std::min(depth, shape.blocks_of(chain));
  if (!shape.holes) return blocks;
  uint32_t matched = 0, run = 0;
  for (uint32_t i = 0; i < blocks; ++i) {
    run = Shape::hole(chain, i) ? 0 : run + 1;
    if (run >= std::min(i + 1, kWindowBlocks)) matched = i + 1;
  }
  return matched;
}

}  // namespace stem::bench
