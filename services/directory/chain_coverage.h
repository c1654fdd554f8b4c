// What the index says of one chain under one view of the members: who has which of its blocks, as bit masks over 128
// blocks at a time. Pure reads; threads: any.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/inlined_vector.h"
#include "proto/validate.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"

namespace stem {

// Of one part, in one chunk: where it is, and how sure that is. Bit 0 is the chunk's first block.
struct PartCoverage {
  BlockMask known = 0;      // in the index, whoever said so
  BlockMask held = 0;       // a node that counts has it, the requester included
  BlockMask requester = 0;  // the requester has it
  BlockMask uncertain = 0;  // someone has it of whom it is not known whether it still counts
  BlockMask lost = 0;       // someone had it who is lost
};

struct ChainChunk {
  uint32_t first = 0;  // block of the chain
  uint32_t count = 0;  // 1..128
  absl::InlinedVector<PartCoverage, 1> parts;  // in the order of ChainCoverage::parts()
  // Nodes that count and have something here, the requester not among them.
  absl::InlinedVector<uint16_t, 4> nodes;
  absl::InlinedVector<TierMasks, 4> masks;  // node by node, part by part

  // What the node at `position` of `nodes` has of `part`.
  const TierMasks& of(size_t position, size_t part) const { return masks[position * parts.size() + part]; }
  std::optional<size_t> PositionOf(uint16_t node) const;
};

class ChainCoverage {
 public:
  // Reads all of the chain. Borrows all three.
  ChainCoverage(const PrefixIndex& index, const MemberView& view, const MatchCall& call);

  // Full parts first, then windows, the widest first: whoever needs one needs those before it.
  const absl::InlinedVector<WantedPart, 2>& parts() const { return parts_; }
  size_t full_parts() const { return full_parts_; }
  const absl::InlinedVector<ChainChunk, 1>& chunks() const { return chunks_; }
  // Index of the requester among the view's nodes; UINT32_MAX when it is none of them.
  uint32_t requester() const { return requester_; }

  // Why a block is not in the stem. `first_missing`: nothing comes before it that could make it unreachable.
  v1::MissCause CauseOf(const ChainChunk& chunk, uint32_t block, bool first_missing) const;

 private:
  void ReadPart(ChainChunk& chunk, size_t part);
  void AddPiece(ChainChunk& chunk, size_t part, const PrefixIndex::Piece& piece, uint32_t at);
  uint64_t Fingerprint(size_t block, size_t part) const;
  TierMasks& MasksOf(ChainChunk& chunk, uint16_t node, size_t part);

  const MemberView& view_;
  const MatchCall& call_;
  const PrefixIndex::Reader reader_;
  uint32_t requester_ = UINT32_MAX;
  absl::InlinedVector<WantedPart, 2> parts_;
  size_t full_parts_ = 0;
  absl::InlinedVector<ChainChunk, 1> chunks_;
};

}  // namespace stem
