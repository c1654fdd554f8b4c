// A block for spill tests: deterministic bytes with the hashes and digest that belong to them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "kernels/checksum.h"
#include "storage/spill/spill_store.h"

namespace stem {

// `number` names the block, `generation` makes other bytes under the same name. Blocks are a chain: each is the
// parent of the next, and block 0 starts it.
class SpillBlock {
 public:
  explicit SpillBlock(uint64_t number, uint64_t length = 64 << 10, uint64_t generation = 1)
      : payload_(length), chunk_hashes_(ChunkCount(length)) {
    std::mt19937_64 random(number * 1000003 + generation);
    for (size_t at = 0; at < payload_.size(); at += sizeof(uint64_t)) {
      const uint64_t word = random();
      std::memcpy(payload_.data() + at, &word, std::min(sizeof(word), payload_.size() - at));
    }
    meta_.name = NameOf(number);
    if (number > 0) meta_.parent = NameOf(number - 1).key;
    meta_.generation = generation;
    meta_.length = length;
    meta_.publisher = number % 3;
    meta_.digest = Digest(meta_.name, payload_, chunk_hashes_);
  }

  static BlockName NameOf(uint64_t number) {
    std::mt19937_64 random(number);
    BlockName name;
    name.space.low = 7;
    name.space.high = 8;
    name.key.low = random();
    name.key.high = random();
    return name;
  }

  static SpillRecordId RecordOf(uint64_t number, uint64_t generation = 1) { return {NameOf(number), generation}; }

  const BlockMeta& meta() const { return meta_; }
  const BlockName& name() const { return meta_.name; }
  SpillRecordId record() const { return {meta_.name, meta_.generation}; }
  const std::vector<std::byte>& payload() const { return payload_; }
  const std::vector<uint64_t>& chunk_hashes() const { return chunk_hashes_; }
  SpillWrite write() const { return {meta_, payload_}; }

 private:
  BlockMeta meta_;
  std::vector<std::byte> payload_;
  std::vector<uint64_t> chunk_hashes_;
};

inline std::vector<SpillWrite> WritesOf(const std::vector<SpillBlock>& blocks) {
  std::vector<SpillWrite> writes;
  for (const SpillBlock& block : blocks) writes.push_back(block.write());
  return writes;
}

// One read with its own memory.
class SpillReading {
 public:
  SpillReading(SpillStore& store, const BlockName& name, uint64_t length)
      : payload_(length), chunk_hashes_(ChunkCount(length)) {
    read_.name = name;
    read_.payload = payload_;
    read_.chunk_hashes = chunk_hashes_;
    store.Get(std::span(&read_, 1));
  }
  SpillReading(const SpillReading&) = delete;
  SpillReading& operator=(const SpillReading&) = delete;

  const absl::Status& status() const { return read_.status; }
  const BlockMeta& meta() const { return read_.meta; }
  const std::vector<std::byte>& payload() const { return payload_; }

  // Whether what was read is `block`, down to the digest taken anew from the bytes.
  bool Is(const SpillBlock& block) const {
    std::vector<uint64_t> hashes(chunk_hashes_.size());
    return read_.status.ok() && read_.meta == block.meta() && payload_ == block.payload() &&
           chunk_hashes_ == block.chunk_hashes() && Digest(read_.name, payload_, hashes) == block.meta().digest;
  }

 private:
  std::vector<std::byte> payload_;
  std::vector<uint64_t> chunk_hashes_;
  SpillRead read_;
};

}  // namespace stem
