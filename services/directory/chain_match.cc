#include "services/directory/chain_match.h"

#include <algorithm>
#include <limits>

#include "proto/check.h"
#include "services/directory/chain_coverage.h"

namespace stem {
namespace {

// By level, then by chunk: level 0 has all full parts, level n the n widest windows besides.
using LevelMasks = absl::InlinedVector<absl::InlinedVector<BlockMask, 1>, 1>;

// Blocks of which the node at `position` has all full parts and the `windows` widest window parts.
BlockMask NodeLevel(const ChainCoverage& coverage, const ChainChunk& chunk, size_t position, size_t windows) {
  const size_t parts = coverage.full_parts() + windows;
  if (parts == 0) return MaskOf(0, chunk.count - 1);
  BlockMask mask = chunk.of(position, 0).all();
  for (size_t part = 1; part < parts; ++part) mask &= chunk.of(position, part).all();
  return mask;
}

// The largest c for which every block before c has level 0, and the last w blocks before c have the level of each part of
// window w.
uint32_t StemBlocks(const ChainCoverage& coverage, const LevelMasks& levels) {
  const size_t windows = levels.size() - 1;
  absl::InlinedVector<uint32_t, 4> behind(windows, 0);  // consecutive blocks of each level, up to here
  uint32_t stem = 0;
  for (size_t i = 0; i < coverage.chunks().size(); ++i) {
    const ChainChunk& chunk = coverage.chunks()[i];
    const uint32_t full = std::min(LowestBit(~levels[0][i]), chunk.count);
    if (windows == 0) {
      stem = chunk.first + full;
    } else {
      for (uint32_t bit = 0; bit < full; ++bit) {
        bool whole = true;
        for (size_t w = 0; w < windows; ++w) {
          behind[w] = (levels[w + 1][i] >> bit & 1) != 0 ? behind[w] + 1 : 0;
          const uint32_t wide = coverage.parts()[coverage.full_parts() + w].window_blocks;
          whole = whole && behind[w] >= std::min(wide, chunk.first + bit + 1);
        }
        if (whole) stem = chunk.first + bit + 1;
      }
    }
    if (full < chunk.count) break;
  }
  return stem;
}

uint64_t Draw(uint64_t key, uint16_t node) {
  uint64_t mixed = (key ^ node * 0x9E3779B97F4A7C15ULL) * 0xC2B2AE3D27D4EB4FULL;
  return (mixed ^ mixed >> 29) * 0x9E3779B97F4A7C15ULL >> 32;
}

using Positions = absl::InlinedVector<size_t, 8>;  // in a chunk's nodes

// Cuts a stem into runs.
class Chooser {
 public:
  Chooser(const ChainCoverage& coverage, const MemberView& view, const MatchCall& call, uint32_t stem)
      : coverage_(coverage), view_(view), call_(call), stem_(stem) {}

  void Cut(absl::InlinedVector<ChainRun, 4>& runs) const {
    uint32_t block = 0;
    // Before the widest window nothing is needed when no part is wanted everywhere: whoever comes first serves it.
    if (coverage_.full_parts() == 0) {
      const uint32_t wide = coverage_.parts()[0].window_blocks;
      block = stem_ > wide ? stem_ - wide : 0;
    }
    while (block < stem_) {
      const ChainChunk& chunk = ChunkOf(block);
      const BlockMask inside = Inside(chunk);
      const auto has = [&](const TierMasks& served) { return (served.all() >> (block - chunk.first) & 1) != 0; };
      std::optional<size_t> position = runs.empty() ? std::nullopt : chunk.PositionOf(runs.back().node);
      TierMasks served = position ? Served(chunk, *position, inside) : TierMasks();
      if (!has(served)) {
        position = Choose(chunk, block);
        served = Served(chunk, *position, inside);
      }
      const ChainRun run = RunAt(chunk, *position, served, block);
      if (!runs.empty() && runs.back().node == run.node && runs.back().tier == run.tier) {
        runs.back().count += run.count;
      } else {
        runs.push_back(run);
      }
      block += run.count;
    }
    if (runs.empty() || runs[0].first == 0) return;
    runs[0].count += runs[0].first;
    runs[0].first = 0;
  }

 private:
  const ChainChunk& ChunkOf(uint32_t block) const { return coverage_.chunks()[block / kStretchBlocksMax]; }

  // Blocks of the chunk at which the part is needed.
  BlockMask Needed(const ChainChunk& chunk, size_t part) const {
    const uint32_t window = coverage_.parts()[part].window_blocks;
    if (window == 0 || stem_ <= chunk.first + window) return ~BlockMask{0};
    const uint32_t first = stem_ - window - chunk.first;
    return first >= kStretchBlocksMax ? BlockMask{0} : ~BlockMask{0} << first;
  }

  // Blocks of the chunk that are in the stem.
  BlockMask Inside(const ChainChunk& chunk) const { return MaskOf(0, std::min(chunk.count, stem_ - chunk.first) - 1); }

  // Blocks, of those `inside`, of which the node has all that is needed, by the slowest tier from which it serves any of it.
  TierMasks Served(const ChainChunk& chunk, size_t position, BlockMask inside) const {
    BlockMask usable = inside;
    BlockMask dram = 0;
    BlockMask ssd = 0;
    for (size_t part = 0; part < coverage_.parts().size(); ++part) {
      const TierMasks& has = chunk.of(position, part);
      const BlockMask needed = Needed(chunk, part);
      const BlockMask faster = has.tiers[v1::TIER_GPU] | has.tiers[v1::TIER_DRAM];
      usable &= has.all() | ~needed;
      dram |= has.tiers[v1::TIER_DRAM] & ~has.tiers[v1::TIER_GPU] & needed;
      ssd |= has.tiers[v1::TIER_SSD] & ~faster & needed;
    }
    TierMasks served;
    served.tiers[v1::TIER_SSD] = usable & ssd;
    served.tiers[v1::TIER_DRAM] = usable & dram & ~ssd;
    served.tiers[v1::TIER_GPU] = usable & ~dram & ~ssd;
    return served;
  }

  // From `block` on, in this chunk and one tier.
  static ChainRun RunAt(const ChainChunk& chunk, size_t position, const TierMasks& served, uint32_t block) {
    const uint32_t bit = block - chunk.first;
    uint8_t tier = v1::TIER_GPU;
    while ((served.tiers[tier] >> bit & 1) == 0) ++tier;
    return {.first = block,
            .count = LowestBit(~(served.tiers[tier] >> bit)),
            .node = chunk.nodes[position],
            .tier = tier};
  }

  // The lower, the better; reach and weight decide among equals.
  uint32_t RankOf(uint16_t number, bool slow, uint32_t block) const {
    const MemberView::Node& node = view_.nodes[number];
    const bool own_host = coverage_.requester() != UINT32_MAX && node.host == view_.nodes[coverage_.requester()].host;
    const bool trusted = node.trust_percent >= 100 || Draw(~call_.keys[block].high, number) % 100 < node.trust_percent;
    return (trusted ? 0U : 4U) + (slow ? 2U : 0U) + (own_host ? 0U : 1U);
  }

  // Who serves from `block` on: a position in the chunk.
  size_t Choose(const ChainChunk& chunk, uint32_t block) const {
    if (chunk.nodes.size() == 1) return 0;
    const uint32_t bit = block - chunk.first;
    Positions best;
    uint32_t best_rank = std::numeric_limits<uint32_t>::max();
    uint32_t farthest = 0;
    const BlockMask inside = Inside(chunk);
    const uint32_t nodes = static_cast<uint32_t>(chunk.nodes.size());
    const auto start = static_cast<uint32_t>(Draw(call_.keys[block].high, 0) % nodes);
    for (uint32_t i = 0; i < nodes; ++i) {
      const size_t position = start + i < nodes ? start + i : start + i - nodes;
      const TierMasks served = Served(chunk, position, inside);
      const uint32_t reach = LowestBit(~(served.all() >> bit));
      if (reach == 0) continue;
      const uint32_t rank = RankOf(chunk.nodes[position], (served.tiers[v1::TIER_SSD] >> bit & 1) != 0, block);
      if (rank <= BestRank() && block + reach == stem_ && IsDrawn(chunk.nodes[position], block)) return position;
      if (rank > best_rank || (rank == best_rank && reach < farthest)) continue;
      if (rank < best_rank || reach > farthest) best.clear();
      best_rank = rank;
      farthest = reach;
      best.push_back(position);
    }
    STEM_CHECK(!best.empty());
    if (bit + farthest == chunk.count) KeepFarthest(chunk, best);
    for (const size_t position : best) {
      if (IsDrawn(chunk.nodes[position], block)) return position;
    }
    return best[0];
  }

  // No holder can have a lower one.
  uint32_t BestRank() const { return coverage_.requester() != UINT32_MAX ? 0 : 1; }
  // Among equals the first that is drawn serves; the key decides who comes first.
  bool IsDrawn(uint16_t node, uint32_t block) const {
    return view_.nodes[node].weight >= 100 || Draw(call_.keys[block].high, node) % 100 < view_.nodes[node].weight;
  }

  // `best` all reach the end of `chunk`: keeps those that go on farthest.
  void KeepFarthest(const ChainChunk& chunk, Positions& best) const {
    for (size_t i = chunk.first / kStretchBlocksMax + 1; best.size() > 1 && i < coverage_.chunks().size(); ++i) {
      const ChainChunk& next = coverage_.chunks()[i];
      if (next.first >= stem_) return;
      uint32_t farthest = 0;
      Positions kept;
      const BlockMask inside = Inside(next);
      for (const size_t position : best) {
        // Chunks list their nodes in much the same order, so this seldom searches.
        const uint16_t node = chunk.nodes[position];
        const bool same = position < next.nodes.size() && next.nodes[position] == node;
        const std::optional<size_t> there = same ? position : next.PositionOf(node);
        const uint32_t reach = there ? LowestBit(~Served(next, *there, inside).all()) : 0;
        if (reach < farthest || reach == 0) continue;
        if (reach > farthest) kept.clear();
        farthest = reach;
        kept.push_back(position);
      }
      if (farthest == 0) return;
      best = std::move(kept);
      if (farthest < next.count) return;
    }
  }

  const ChainCoverage& coverage_;
  const MemberView& view_;
  const MatchCall& call_;
  const uint32_t stem_;
};

// StemBlocks of level 0 alone.
uint32_t FullBlocks(const ChainCoverage& coverage) {
  for (const ChainChunk& chunk : coverage.chunks()) {
    BlockMask mask = 0;
    const BlockMask all = MaskOf(0, chunk.count - 1);
    for (size_t position = 0; position < chunk.nodes.size() && mask != all; ++position) {
      mask |= NodeLevel(coverage, chunk, position, 0);
    }
    const uint32_t full = LowestBit(~mask);
    if (full < chunk.count) return chunk.first + full;
  }
  return coverage.chunks().back().first + coverage.chunks().back().count;
}

LevelMasks LevelsOfAll(const ChainCoverage& coverage) {
  LevelMasks levels(1 + coverage.parts().size() - coverage.full_parts());
  for (size_t level = 0; level < levels.size(); ++level) {
    for (const ChainChunk& chunk : coverage.chunks()) {
      // Where no part is needed nobody has to have it.
      BlockMask mask = coverage.full_parts() + level == 0 ? MaskOf(0, chunk.count - 1) : 0;
      for (size_t position = 0; position < chunk.nodes.size(); ++position) {
        mask |= NodeLevel(coverage, chunk, position, level);
      }
      levels[level].push_back(mask);
    }
  }
  return levels;
}

LevelMasks LevelsOfNode(const ChainCoverage& coverage, uint16_t node) {
  LevelMasks levels(1 + coverage.parts().size() - coverage.full_parts());
  for (size_t level = 0; level < levels.size(); ++level) {
    for (const ChainChunk& chunk : coverage.chunks()) {
      const std::optional<size_t> position = chunk.PositionOf(node);
      const BlockMask nothing = coverage.full_parts() + level == 0 ? MaskOf(0, chunk.count - 1) : 0;
      levels[level].push_back(position ? NodeLevel(coverage, chunk, *position, level) : nothing);
    }
  }
  return levels;
}

}  // namespace

ChainMatch MatchChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call) {
  const ChainCoverage coverage(index, view, call);
  ChainMatch match;
  const bool plain = coverage.full_parts() == coverage.parts().size();
  match.matched_blocks = plain ? FullBlocks(coverage) : StemBlocks(coverage, LevelsOfAll(coverage));
  if (match.matched_blocks > 0) Chooser(coverage, view, call, match.matched_blocks).Cut(match.runs);
  for (uint32_t block = match.matched_blocks; block < call.keys.size(); ++block) {
    const ChainChunk& chunk = coverage.chunks()[block / kStretchBlocksMax];
    const v1::MissCause cause = coverage.CauseOf(chunk, block, block == match.matched_blocks);
    if (!match.misses.empty() && match.misses.back().cause == cause) {
      ++match.misses.back().count;
    } else {
      match.misses.push_back({.first = block, .count = 1, .cause = cause});
    }
  }
  return match;
}

std::vector<ChainScore> ScoreChain(const PrefixIndex& index, const MemberView& view, const MatchCall& call) {
  std::vector<ChainScore> scores(view.nodes.size());
  const ChainCoverage coverage(index, view, call);
  for (uint16_t node = 0; node < scores.size(); ++node) {
    // Who lacks the start has no stem, unless the start is not needed.
    if (coverage.full_parts() > 0 && !coverage.chunks()[0].PositionOf(node)) continue;
    ChainScore& score = scores[node];
    score.matched_blocks = StemBlocks(coverage, LevelsOfNode(coverage, node));
    for (const ChainChunk& chunk : coverage.chunks()) {
      const std::optional<size_t> position = chunk.PositionOf(node);
      if (chunk.first >= score.matched_blocks) break;
      if (!position) continue;
      BlockMask ssd = 0;
      for (size_t part = 0; part < coverage.full_parts(); ++part) {
        const auto& tiers = chunk.of(*position, part).tiers;
        ssd |= tiers[v1::TIER_SSD] & ~tiers[v1::TIER_DRAM] & ~tiers[v1::TIER_GPU];
      }
      score.ssd_blocks += CountBits(ssd & MaskOf(0, std::min(chunk.count, score.matched_blocks - chunk.first) - 1));
    }
    score.pool_blocks = score.matched_blocks - score.ssd_blocks;
  }
  return scores;
}

}  // namespace stem
