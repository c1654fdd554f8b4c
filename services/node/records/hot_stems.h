// The prefixes that most requests went through of late, in bounded memory: prefixes of 1, 2, 4, 8, ... blocks, and those at which chains
// that went together part. Each has a rate that decays; a newcomer takes the place of the coldest of a few. Not synchronized; `now` is an
// argument.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/block_key.h"

namespace stem {

class HotStems {
 public:
  struct Options {
    size_t stems_max = 4096;                     // some 150 bytes each
    size_t segment_keys_max = 1 << 17;           // of chains that are remembered to find where others part; 16 bytes each
    absl::Duration half_life = absl::Minutes(1);  // of rates
  };
  explicit HotStems(const Options& options);

  // One request's chain. `found`: leading blocks that it found.
  void Request(const NamespaceFingerprint& space, std::span<const BlockKey> keys, size_t found, absl::Time now);

  struct Stem {
    NamespaceFingerprint space;
    BlockKey key;                    // of its last block
    std::optional<BlockKey> parent;  // of the nearest shorter one that is told of or was
    uint32_t blocks = 0;
    double requests_per_minute = 0;
    uint64_t requests = 0;           // while it was listed
    absl::Duration last_asked_ago;
    double hit_fraction = 0;         // of late
  };
  // Busiest first, then longest first; with `below`, only what follows that. One that nearly all requests go on from to one that is told of
  // too is left out.
  std::vector<Stem> Read(size_t stems_max, const std::optional<BlockKey>& below, absl::Time now) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;
  static constexpr size_t kBranches = 4;        // of one stem, before the next power of two
  static constexpr size_t kSegmentKeysMax = 256;  // of one stem
  static constexpr int kTries = 8;

  struct Branch {
    uint32_t blocks = 0;  // 0 = none
    BlockKey key;
  };
  struct Entry {
    BlockName name;
    std::optional<BlockKey> parent;
    uint32_t blocks = 0;
    uint64_t requests = 0;
    double weight = 0;  // requests, decayed to begun_
    double found = 0;   // of them
    absl::Time last;
    std::array<Branch, kBranches> branches;  // longer stems short of twice its length
    std::vector<BlockKey> segment;           // how the first request went on from it
  };
  struct NameHash {  // keys are hashes
    size_t operator()(const BlockName& name) const { return name.key.low ^ name.space.low; }
  };

  // Counts a request of the stem of `blocks`; returns its index.
  uint32_t Count(const BlockName& name, uint32_t blocks, const std::optional<BlockKey>& parent, bool found);
  uint32_t Take();  // an index for a newcomer
  // Finds where the chain leaves the one that the entry remembers.
  void FindBranch(uint32_t index, std::span<const BlockKey> keys);
  void Remember(Entry& entry, std::span<const BlockKey> keys);
  void SetNow(absl::Time now);
  double Decay(absl::Time now) const;

  const Options options_;
  absl::flat_hash_map<BlockName, uint32_t, NameHash> index_;
  std::vector<Entry> entries_;
  size_t segment_keys_ = 0;
  absl::Time begun_;      // weights are as of then
  absl::Time now_;
  double weight_now_ = 1;  // of a request now
  uint64_t random_ = 0x9E3779B97F4A7C15;
};

}  // namespace stem
