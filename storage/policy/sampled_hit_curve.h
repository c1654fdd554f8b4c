// What LRU would hit at other capacities, from a live stream of requests, by spatial sampling (Waldspurger et al., SHARDS, FAST 2015):
// blocks whose key is below a threshold stand for all, distances are divided by their share, and the difference between the references
// that were sampled and those that should have been goes to the shortest distance (SHARDS-adj). With the strict prefix: a block counts
// as held only where every sampled block before it in its chain is. Capacities in slots. Not synchronized; `now` is an argument.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/block_key.h"
#include "storage/policy/lru_stack.h"

namespace stem {

class SampledHitCurve {
 public:
  struct Options {
    uint64_t capacity_slots = 1;           // today's
    double capacity_factor_max = 8;        // up to so many times that is told of
    size_t sampled_max = 32'768;           // blocks that are followed, up to twice as many: some 100 bytes each
    absl::Duration period = absl::Minutes(30);  // what is told of covers one to two of these
  };
  explicit SampledHitCurve(const Options& options);

  // One request's chain, of which `blocks_held` were found in the tier; each block takes `slots` of it, and goes by the key of its part
  // `part`.
  struct Asked {
    NamespaceFingerprint space;
    std::span<const BlockKey> keys;
    uint32_t part = 0;
    uint32_t slots = 1;
    uint64_t blocks_held = 0;
  };
  void Request(const Asked& asked, absl::Time now);

  struct Curve {
    uint64_t blocks = 0;             // that were asked
    uint64_t blocks_held = 0;        // of them, in the tier, as measured
    uint64_t references = 0;         // of blocks, sampled
    double sampled_fraction = 1;     // of keys
    absl::Time since;
    double slots_used = 0;           // by distinct blocks

    // Blocks that LRU would have hit with room for `slots`.
    double Hits(double slots) const;

   private:
    friend class SampledHitCurve;
    std::vector<double> hits;  // by bucket, of sampled references
  };
  Curve Read(absl::Time now);

 private:
  // Of distances: 32 buckets an octave.
  static constexpr size_t kBucketsPerOctave = 32;
  static constexpr size_t kBuckets = kBucketsPerOctave * 48;
  static size_t BucketOf(double slots);

  struct Period {
    absl::Time since;
    uint64_t blocks = 0;
    uint64_t blocks_held = 0;
    uint64_t references = 0;
    double slots = 0;  // of blocks that were used last in this period, sampled
    std::vector<float> hits = std::vector<float>(kBuckets);  // sampled
  };
  static constexpr uint64_t kNever = UINT64_MAX;  // its successor is no period
  struct Sampled {
    BlockName name;
    uint32_t slots = 0;
    uint64_t period = 0;  // of its last use; kNever = not used yet
  };

  void Turn(absl::Time now);
  // Finds or makes the id of a sampled block; tells whether it was known.
  uint32_t IdOf(const BlockName& name, uint32_t slots);
  void Use(uint32_t id);

  const Options options_;
  const double fraction_;
  const uint64_t threshold_;
  LruStack stack_;
  absl::flat_hash_map<BlockName, uint32_t> ids_;
  std::vector<Sampled> sampled_;  // by id
  std::vector<uint32_t> free_ids_;
  std::vector<uint32_t> request_;  // ids of the request's sampled blocks
  uint64_t period_ = 1;            // number of `now_`
  Period now_;
  Period before_;
};

}  // namespace stem
