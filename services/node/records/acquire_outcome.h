// What became of one Acquire, block by block: where each came from, or the one cause for which it is missed. Each block is counted once,
// whatever was promised and lost on the way, so hits and misses add up to what was asked.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

// Threads: one at a time.
class AcquireOutcome {
 public:
  struct Counts {
    std::array<uint64_t, stemcache::v1::Source_ARRAYSIZE> hits = {};        // blocks
    std::array<uint64_t, stemcache::v1::MissCause_ARRAYSIZE> misses = {};
  };

  explicit AcquireOutcome(size_t blocks) : words_(blocks, 0) {}

  // A later word on a block replaces an earlier one.
  void Hit(size_t block, stemcache::v1::Source source) { words_[block] = static_cast<uint8_t>(source); }
  void Miss(size_t first, size_t count, stemcache::v1::MissCause cause);
  // Of blocks of which nothing was said.
  void MissRest(stemcache::v1::MissCause cause);

  size_t blocks() const { return words_.size(); }
  Counts counts() const;
  // The runs of missed blocks, ascending.
  google::protobuf::RepeatedPtrField<stemcache::v1::Miss> misses() const;

 private:
  static constexpr uint8_t kMissed = 0x40;  // plus the cause

  std::vector<uint8_t> words_;  // by block: a Source, or a cause; 0 = nothing was said
};

}  // namespace stem
