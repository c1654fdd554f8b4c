#include "services/directory/chain_coverage.h"

#include <algorithm>
#include <array>

namespace stem {
namespace {

constexpr uint32_t kChunkBlocks = kStretchBlocksMax;
constexpr uint32_t kLookahead = 8;   // absent blocks whose place in the table is fetched ahead
constexpr size_t kFewNodes = 8;      // so many are found faster by looking at each

// Node -> position in the chunk that is being read: filled for chunks with many nodes, never cleared.
struct Positions {
  struct Entry {
    uint64_t chunk = 0;
    uint32_t position = 0;
  };
  std::vector<Entry> entries;
  uint64_t chunk = 0;
};
thread_local Positions positions;

}  // namespace

std::optional<size_t> ChainChunk::PositionOf(uint16_t node) const {
  const auto found = std::find(nodes.begin(), nodes.end(), node);
  return found != nodes.end() ? std::optional<size_t>(found - nodes.begin()) : std::nullopt;
}

ChainCoverage::ChainCoverage(const PrefixIndex& index, const MemberView& view, const MatchCall& call)
    : view_(view), call_(call), reader_(index), parts_(call.parts.begin(), call.parts.end()) {
  if (!call.requester.empty()) requester_ = view.IndexOf(call.requester);
  const auto width = [](const WantedPart& part) { return part.window_blocks == 0 ? UINT32_MAX : part.window_blocks; };
  if (parts_.size() > 1) {
    std::stable_sort(parts_.begin(), parts_.end(),
                     [&](const WantedPart& a, const WantedPart& b) { return width(a) > width(b); });
  }
  while (full_parts_ < parts_.size() && parts_[full_parts_].window_blocks == 0) ++full_parts_;
  chunks_.resize((call.keys.size() + kChunkBlocks - 1) / kChunkBlocks);
  for (size_t i = 0; i < chunks_.size(); ++i) {
    ChainChunk& chunk = chunks_[i];
    chunk.first = static_cast<uint32_t>(i * kChunkBlocks);
    chunk.count = static_cast<uint32_t>(std::min<size_t>(kChunkBlocks, call.keys.size() - chunk.first));
    chunk.parts.resize(parts_.size());
    for (size_t part = 0; part < parts_.size(); ++part) ReadPart(chunk, part);
  }
}

uint64_t ChainCoverage::Fingerprint(size_t block, size_t part) const {
  return IndexedAs({.space = call_.space, .key = PartKey(call_.keys[block], parts_[part].id)});
}

void ChainCoverage::ReadPart(ChainChunk& chunk, size_t part) {
  std::array<uint64_t, kChunkBlocks> fingerprints;
  reader_.Prefetch(Fingerprint(chunk.first, part));
  const BlockKey* keys = call_.keys.data() + chunk.first;
  const NamespaceFingerprint space = call_.space;
  const uint32_t id = parts_[part].id;
  for (uint32_t i = 0; i < chunk.count; ++i) fingerprints[i] = IndexedAs({.space = space, .key = PartKey(keys[i], id)});
  for (uint32_t at = 0; at < chunk.count;) {
    const PrefixIndex::Piece piece = reader_.Find(std::span(fingerprints).subspan(at, chunk.count - at));
    if (piece.count == 0) {
      ++at;
      if (at + kLookahead < chunk.count) reader_.Prefetch(fingerprints[at + kLookahead]);
      continue;
    }
    AddPiece(chunk, part, piece, at);
    at += piece.count;
  }
}

void ChainCoverage::AddPiece(ChainChunk& chunk, size_t part, const PrefixIndex::Piece& piece, uint32_t at) {
  chunk.parts[part].known |= MaskOf(at, at + piece.count - 1);
  PartCoverage& coverage = chunk.parts[part];
  const auto visit = [&](NodeSlot slot, v1::Tier tier, PrefixIndex::SlotState state, uint32_t first, uint32_t last) {
    const BlockMask blocks = MaskOf(at + first, at + last);
    if (state != PrefixIndex::SlotState::kOpen) {
      if (state == PrefixIndex::SlotState::kLost) coverage.lost |= blocks;
      return;
    }
    const MemberView::Slot member = slot < view_.slots.size() ? view_.slots[slot] : MemberView::Slot();
    if (member.use == MemberView::Use::kLost) {
      coverage.lost |= blocks;
    } else if (member.use != MemberView::Use::kCounts) {
      coverage.uncertain |= blocks;
    } else {
      coverage.held |= blocks;
      if (member.node == requester_) {
        coverage.requester |= blocks;
      } else {
        MasksOf(chunk, member.node, part).tiers[tier] |= blocks;
      }
    }
  };
  reader_.ForEachHolder(piece, visit);
}

TierMasks& ChainCoverage::MasksOf(ChainChunk& chunk, uint16_t node, size_t part) {
  const auto masks = [&](size_t position) -> TierMasks& { return chunk.masks[position * parts_.size() + part]; };
  Positions& known = positions;
  if (chunk.nodes.size() <= kFewNodes) {
    if (const std::optional<size_t> position = chunk.PositionOf(node)) return masks(*position);
  } else if (known.entries[node].chunk == known.chunk) {
    return masks(known.entries[node].position);
  }
  const size_t position = chunk.nodes.size();
  chunk.nodes.push_back(node);
  for (size_t i = 0; i < parts_.size(); ++i) chunk.masks.emplace_back();
  if (position < kFewNodes) return masks(position);
  // From now on all are looked up by number, those that came before too.
  const size_t from = position == kFewNodes ? 0 : position;
  if (from == 0) {
    ++known.chunk;
    if (known.entries.size() < view_.nodes.size()) known.entries.resize(view_.nodes.size());
  }
  for (size_t i = from; i <= position; ++i) {
    known.entries[chunk.nodes[i]] = {.chunk = known.chunk, .position = static_cast<uint32_t>(i)};
  }
  return masks(position);
}

v1::MissCause ChainCoverage::CauseOf(const ChainChunk& chunk, uint32_t block, bool first_missing) const {
  const uint32_t bit = block - chunk.first;
  const auto has = [bit](BlockMask mask) { return (mask >> bit & 1) != 0; };
  v1::MissCause cause = v1::MISS_CAUSE_UNSPECIFIED;  // of the parts that are nowhere, the first in MissCause's order
  bool requester = false;
  for (size_t part = 0; part < parts_.size(); ++part) {
    const PartCoverage& coverage = chunk.parts[part];
    requester = requester || has(coverage.requester);
    if (has(coverage.held)) continue;
    v1::MissCause why = v1::MISS_CAUSE_UNKNOWN;
    if (!has(coverage.known)) {
      why = reader_.CauseOf(Fingerprint(block, part));
      if (why == v1::MISS_CAUSE_COLD && !view_.history_whole) why = v1::MISS_CAUSE_UNKNOWN;
    } else if (has(coverage.lost) && !has(coverage.uncertain)) {
      why = v1::MISS_CAUSE_NODE_LOST;
    }
    cause = cause == v1::MISS_CAUSE_UNSPECIFIED ? why : std::min(cause, why);
  }
  if (cause != v1::MISS_CAUSE_UNSPECIFIED) return cause;
  // Held, but not by one node that can serve it. Its name is behind what the requester knows of itself, or another's.
  return first_missing && requester ? v1::MISS_CAUSE_UNKNOWN : v1::MISS_CAUSE_UNREACHABLE;
}

}  // namespace stem
