#include "services/directory/chain_match.h"

#include <algorithm>

#include "absl/container/inlined_vector.h"
#include "proto/check.h"

namespace stem {
namespace {

constexpr uint32_t kNobody = UINT32_MAX;

struct Candidate {
  uint16_t node = 0;
  uint8_t tier = 0;  // the slowest of the parts'
};
using Candidates = absl::InlinedVector<Candidate, 4>;

// What the index says of one block.
struct BlockFacts {
  Candidates candidates;  // nodes with all parts
  bool held = true;       // every part is somewhere, if only with the requester or apart
  bool requester = false; // some part is with the requester
  v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;  // of the parts that are nowhere, the first in MissCause's order
};

class BlockReader {
 public:
  BlockReader(const PrefixIndex& index, const MemberView& view, const MatchCall& call)
      : index_(index), view_(view), call_(call) {
    for (size_t i = 0; i < view.nodes.size() && !call.requester.empty(); ++i) {
      if (view.nodes[i]->node() == call.requester) requester_ = static_cast<uint32_t>(i);
    }
  }

  void Read(size_t block, BlockFacts& facts) {
    facts.candidates.clear();
    facts.held = true;
    facts.requester = false;
    facts.cause = v1::MISS_CAUSE_UNSPECIFIED;
    for (size_t i = 0; i < call_.parts.size(); ++i) {
      const BlockKey key = PartKey(call_.keys[block], call_.parts[i].id);
      index_.Find(IndexFingerprint({.space = call_.space, .key = key}), found_);
      ReadPart(i == 0, facts);
    }
  }

 private:
  void ReadPart(bool first, BlockFacts& facts) {
    part_.clear();
    bool held = false;
    bool uncertain = false;
    bool lost = false;
    for (const Holder holder : found_.holders) {
      const MemberView::Slot slot = holder.slot < view_.slots.size() ? view_.slots[holder.slot] : MemberView::Slot();
      lost = lost || slot.use == MemberView::Use::kLost;
      uncertain = uncertain || slot.use == MemberView::Use::kUncertain || slot.use == MemberView::Use::kNone;
      if (slot.use != MemberView::Use::kCounts) continue;
      held = true;
      facts.requester = facts.requester || slot.node == requester_;
      if (slot.node != requester_) part_.push_back({.node = slot.node, .tier = holder.tier});
    }
    if (!held) {
      v1::MissCause cause = found_.cause;
      if (!found_.holders.empty()) cause = lost && !uncertain ? v1::MISS_CAUSE_NODE_LOST : v1::MISS_CAUSE_UNKNOWN;
      if (cause == v1::MISS_CAUSE_COLD && !view_.history_whole) cause = v1::MISS_CAUSE_UNKNOWN;
      facts.cause = facts.held ? cause : std::min(facts.cause, cause);
      facts.held = false;
    }
    if (first) {
      facts.candidates = part_;
    } else {
      Intersect(facts.candidates);
    }
  }

  // Keeps those of `candidates` that have this part too.
  void Intersect(Candidates& candidates) const {
    const auto gone = std::remove_if(candidates.begin(), candidates.end(), [this](Candidate& each) {
      const auto same =
          std::find_if(part_.begin(), part_.end(), [&](Candidate part) { return part.node == each.node; });
      if (same != part_.end()) each.tier = std::max(each.tier, same->tier);
      return same == part_.end();
    });
    candidates.erase(gone, candidates.end());
  }

  const PrefixIndex& index_;
  const MemberView& view_;
  const MatchCall& call_;
  uint32_t requester_ = kNobody;
  PrefixIndex::Found found_;
  Candidates part_;
};

const Candidate* CandidateOf(const Candidates& candidates, uint16_t node) {
  for (const Candidate& each : candidates) {
    if (each.node == node) return &each;
  }
  return nullptr;
}

// Who serves from `block` on.
uint16_t Choose(const std::vector<Candidates>& blocks, size_t block, uint64_t tie_breaker) {
  absl::InlinedVector<uint16_t, 8> rest;
  bool pool = false;
  for (const Candidate& each : blocks[block]) pool = pool || each.tier != v1::TIER_SSD;
  for (const Candidate& each : blocks[block]) {
    if (!pool || each.tier != v1::TIER_SSD) rest.push_back(each.node);
  }
  for (size_t next = block + 1; next < blocks.size() && rest.size() > 1; ++next) {
    absl::InlinedVector<uint16_t, 8> still;
    for (const uint16_t node : rest) {
      if (CandidateOf(blocks[next], node) != nullptr) still.push_back(node);
    }
    if (still.empty()) break;
    rest = still;
  }
  return rest[tie_breaker % rest.size()];
}

std::vector<ChainRun> Runs(const std::vector<Candidates>& blocks, const std::vector<BlockKey>& keys) {
  std::vector<ChainRun> runs;
  for (size_t block = 0; block < blocks.size(); ++block) {
    const Candidate* same = runs.empty() ? nullptr : CandidateOf(blocks[block], runs.back().node);
    if (same == nullptr) same = CandidateOf(blocks[block], Choose(blocks, block, keys[block].high));
    STEM_CHECK(same != nullptr);
    if (!runs.empty() && runs.back().node == same->node && runs.back().tier == same->tier) {
      ++runs.back().count;
    } else {
      runs.push_back({.first = static_cast<uint32_t>(block), .count = 1, .node = same->node, .tier = same->tier});
    }
  }
  return runs;
}

// `first_missing`: nothing comes before it that could make it unreachable.
v1::MissCause CauseOf(const BlockFacts& facts, bool first_missing) {
  if (!facts.held) return facts.cause;
  // Its name is behind what the requester knows of itself.
  if (first_missing && facts.requester) return v1::MISS_CAUSE_UNKNOWN;
  return v1::MISS_CAUSE_UNREACHABLE;
}

}  // namespace

ChainMatch MatchChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call) {
  ChainMatch match;
  BlockReader reader(index, view, call);
  std::vector<Candidates> blocks;  // of the stem
  BlockFacts facts;
  for (size_t block = 0; block < call.keys.size(); ++block) {
    reader.Read(block, facts);
    const bool in_stem = blocks.size() == block;
    if (in_stem && !facts.candidates.empty()) {
      blocks.push_back(facts.candidates);
      continue;
    }
    const v1::MissCause cause = CauseOf(facts, in_stem);
    if (!match.misses.empty() && match.misses.back().cause == cause) {
      ++match.misses.back().count;
    } else {
      match.misses.push_back({.first = static_cast<uint32_t>(block), .count = 1, .cause = cause});
    }
  }
  match.matched_blocks = static_cast<uint32_t>(blocks.size());
  match.runs = Runs(blocks, call.keys);
  return match;
}

std::vector<ChainScore> ScoreChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call) {
  std::vector<ChainScore> scores(view.nodes.size());
  BlockReader reader(index, view, call);
  BlockFacts facts;
  for (uint32_t block = 0; block < call.keys.size(); ++block) {
    reader.Read(block, facts);
    bool any = false;
    for (const Candidate& each : facts.candidates) {
      ChainScore& score = scores[each.node];
      if (score.matched_blocks != block) continue;  // its run ended before
      any = true;
      ++score.matched_blocks;
      ++(each.tier == v1::TIER_SSD ? score.ssd_blocks : score.pool_blocks);
    }
    if (!any) break;
  }
  return scores;
}

}  // namespace stem
