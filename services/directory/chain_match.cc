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
  BlockMask mask = MaskOf(0, chunk.count - 1);
  for (size_t part = 0; part < coverage.full_parts() + windows; ++part) mask &= chunk.of(position, part).all();
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
      std::optional<size_t> position = runs.empty() ? std::nullopt : chunk.PositionOf(runs.back().node);
      if (!position || !Has(chunk, *position, block)) position = chunk.PositionOf(Choose(chunk, block));
      const ChainRun run = RunAt(chunk, *position, block);
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

  // Blocks of the chunk of which the node has what the stem needs, in the stem only.
  BlockMask Usable(const ChainChunk& chunk, size_t position) const {
    BlockMask mask = MaskOf(0, std::min(chunk.count, stem_ - chunk.first) - 1);
    for (size_t part = 0; part < coverage_.parts().size(); ++part) {
      mask &= chunk.of(position, part).all() | ~Needed(chunk, part);
    }
    return mask;
  }

 private:
  const ChainChunk& ChunkOf(uint32_t block) const { return coverage_.chunks()[block / kStretchBlocksMax]; }
  bool Has(const ChainChunk& chunk, size_t position, uint32_t block) const {
    return (Usable(chunk, position) >> (block - chunk.first) & 1) != 0;
  }

  // Blocks of the chunk at which the part is needed.
  BlockMask Needed(const ChainChunk& chunk, size_t part) const {
    const uint32_t window = coverage_.parts()[part].window_blocks;
    if (window == 0 || stem_ <= chunk.first + window) return ~BlockMask{0};
    const uint32_t first = stem_ - window - chunk.first;
    return first >= kStretchBlocksMax ? BlockMask{0} : ~BlockMask{0} << first;
  }

  // Blocks at which `tier` is the slowest from which the node serves a needed part.
  BlockMask Slowest(const ChainChunk& chunk, size_t position, v1::Tier tier) const {
    BlockMask mask = 0;
    BlockMask slower = 0;
    for (size_t part = 0; part < coverage_.parts().size(); ++part) {
      const auto& tiers = chunk.of(position, part).tiers;
      const BlockMask dram = tiers[v1::TIER_DRAM] & ~tiers[v1::TIER_GPU];
      const BlockMask ssd = tiers[v1::TIER_SSD] & ~tiers[v1::TIER_DRAM] & ~tiers[v1::TIER_GPU];
      const BlockMask needed = Needed(chunk, part);
      mask |= (tier == v1::TIER_SSD ? ssd : tier == v1::TIER_DRAM ? dram : tiers[v1::TIER_GPU]) & needed;
      slower |= (tier == v1::TIER_SSD ? 0 : tier == v1::TIER_DRAM ? ssd : dram | ssd) & needed;
    }
    return mask & ~slower;
  }

  // From `block` on, in this chunk and one tier.
  ChainRun RunAt(const ChainChunk& chunk, size_t position, uint32_t block) const {
    const uint32_t bit = block - chunk.first;
    const BlockMask usable = Usable(chunk, position);
    for (const v1::Tier tier : {v1::TIER_GPU, v1::TIER_DRAM, v1::TIER_SSD}) {
      const BlockMask same = (Slowest(chunk, position, tier) & usable) >> bit;
      if ((same & 1) == 0) continue;
      return {.first = block, .count = LowestBit(~same), .node = chunk.nodes[position], .tier = static_cast<uint8_t>(tier)};
    }
    STEM_CHECK(false);
    return {};
  }

  // The lower, the better; reach and weight decide among equals.
  uint32_t RankOf(const ChainChunk& chunk, size_t position, uint32_t block) const {
    const MemberView::Node& node = view_.nodes[chunk.nodes[position]];
    const bool slow = (Slowest(chunk, position, v1::TIER_SSD) >> (block - chunk.first) & 1) != 0;
    const bool own_host = coverage_.requester() != UINT32_MAX && node.host == view_.nodes[coverage_.requester()].host;
    const bool trusted = node.trust_percent >= 100 ||
                         Draw(~call_.keys[block].high, chunk.nodes[position]) % 100 < node.trust_percent;
    return (trusted ? 0U : 4U) + (slow ? 2U : 0U) + (own_host ? 0U : 1U);
  }

  // Who serves from `block` on.
  uint16_t Choose(const ChainChunk& chunk, uint32_t block) const {
    absl::InlinedVector<uint16_t, 8> best;
    uint32_t best_rank = std::numeric_limits<uint32_t>::max();
    for (size_t position = 0; position < chunk.nodes.size(); ++position) {
      if (!Has(chunk, position, block)) continue;
      const uint32_t rank = chunk.nodes.size() == 1 ? 0 : RankOf(chunk, position, block);
      if (rank < best_rank) best.clear();
      best_rank = std::min(best_rank, rank);
      if (rank == best_rank) best.push_back(chunk.nodes[position]);
    }
    STEM_CHECK(!best.empty());
    KeepFarthest(best, block);
    const auto draw = [&](uint16_t node) { return Draw(call_.keys[block].high, node) * view_.nodes[node].weight; };
    return *std::max_element(best.begin(), best.end(), [&](uint16_t a, uint16_t b) { return draw(a) < draw(b); });
  }

  void KeepFarthest(absl::InlinedVector<uint16_t, 8>& nodes, uint32_t block) const {
    for (size_t i = block / kStretchBlocksMax; nodes.size() > 1 && i < coverage_.chunks().size(); ++i) {
      const ChainChunk& chunk = coverage_.chunks()[i];
      if (chunk.first >= stem_) return;
      const uint32_t from = std::max(block, chunk.first) - chunk.first;
      uint32_t farthest = 0;
      absl::InlinedVector<uint16_t, 8> kept;
      for (size_t position = 0; position < chunk.nodes.size(); ++position) {
        if (std::find(nodes.begin(), nodes.end(), chunk.nodes[position]) == nodes.end()) continue;
        const uint32_t reach = LowestBit(~(Usable(chunk, position) >> from));
        if (reach > farthest) kept.clear();
        farthest = std::max(farthest, reach);
        if (reach == farthest && reach > 0) kept.push_back(chunk.nodes[position]);
      }
      if (farthest == 0) return;
      nodes = std::move(kept);
      if (from + farthest < chunk.count) return;
    }
  }

  const ChainCoverage& coverage_;
  const MemberView& view_;
  const MatchCall& call_;
  const uint32_t stem_;
};

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
  match.matched_blocks = StemBlocks(coverage, LevelsOfAll(coverage));
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
