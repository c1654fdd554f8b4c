// One block of a PrefixIndex at a time: what tests add, remove and look up.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "services/directory/prefix_index.h"

namespace stem::testing {

inline void AddBlock(PrefixIndex& index, SlotHandle slot, uint64_t fingerprint, stemcache::v1::Tier tier) {
  index.AddRun(slot, std::array{fingerprint}, std::nullopt, tier);
}

inline void RemoveBlock(PrefixIndex& index, SlotHandle slot, uint64_t fingerprint, stemcache::v1::MissCause cause) {
  index.RemoveRun(slot, std::array{fingerprint}, cause);
}

struct FoundHolder {
  NodeSlot slot = 0;
  stemcache::v1::Tier tier = stemcache::v1::TIER_UNSPECIFIED;
};

struct FoundBlock {
  std::vector<FoundHolder> holders;  // open slots that have it
  stemcache::v1::MissCause cause = stemcache::v1::MISS_CAUSE_UNSPECIFIED;  // why not, when `holders` is empty
};

inline FoundBlock FindBlock(const PrefixIndex& index, uint64_t fingerprint) {
  FoundBlock found;
  const PrefixIndex::Reader reader(index);
  const PrefixIndex::Piece piece = reader.Find(std::array{fingerprint});
  if (piece.count == 0) {
    found.cause = reader.CauseOf(fingerprint);
    return found;
  }
  found.cause = stemcache::v1::MISS_CAUSE_UNKNOWN;
  reader.ForEachHolder(piece, [&](NodeSlot slot, stemcache::v1::Tier tier, PrefixIndex::SlotState state, uint32_t, uint32_t) {
    if (state == PrefixIndex::SlotState::kOpen) found.holders.push_back({.slot = slot, .tier = tier});
    if (state == PrefixIndex::SlotState::kLost) found.cause = stemcache::v1::MISS_CAUSE_NODE_LOST;
  });
  return found;
}

}  // namespace stem::testing
