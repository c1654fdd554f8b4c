// An index beside its members, filled by a shape.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/directory/chain_match.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"
#include "tests/bench/directory/shape.h"

namespace stem::bench {

inline absl::Time BenchNow() { return absl::UnixEpoch(); }  // stands still, so nobody is silent

v1::Hello HelloOf(uint32_t node, uint64_t incarnation = 1);

// `seconds`, when not null, grows by the time that the index took: keys are made before the clock starts.
class FilledIndex {
 public:
  explicit FilledIndex(const Shape& shape);

  // All nodes of the shape and what they hold, then Step() until nothing is left to do. Returns changes applied.
  uint64_t Fill(double* seconds = nullptr);

  // One more node, with an open slot that counts.
  SlotHandle Join(uint32_t node);
  void AddRun(SlotHandle slot, std::span<const uint64_t> fingerprints, std::optional<uint64_t> parent);
  void RemoveRun(SlotHandle slot, std::span<const uint64_t> fingerprints);

  // The first `depth` blocks of a chain; part 1 in a window of 64 blocks when the shape has holes.
  MatchCall CallOf(uint64_t chain, uint32_t depth) const;
  void MakeCall(uint64_t chain, uint32_t depth, MatchCall& call) const;
  // What a match of that call must answer.
  uint32_t MatchedOf(uint64_t chain, uint32_t depth) const;

  const Shape shape;
  PrefixIndex index;
  Membership membership;
  std::vector<SlotHandle> slots;  // by node, once filled

 private:
  struct Run {
    uint32_t node = 0;
    std::optional<uint64_t> parent;
    size_t first = 0;  // in keys_
    size_t count = 0;
  };

  void Pieces(uint64_t chain, uint32_t first, uint32_t count);
  void Queue(uint32_t node, uint64_t chain, uint32_t first, uint32_t last, uint32_t part);
  uint64_t Flush(double* seconds);

  std::vector<uint64_t> keys_;
  std::vector<Run> runs_;
};

}  // namespace stem::bench
