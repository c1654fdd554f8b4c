// Stem: the right to read the leading run of a chain, from Acquire to Release.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "proto/status.h"
#include "stemcache/v1/node.pb.h"

namespace stem {

class StemState;

// How a block is proved that another process may have written.
enum class LocalProof {
  kFull,    // header and digest, in the same pass as the copy
  kHeader,  // header only: trusts the node's own proof while the pin holds; the digest is taken when the session is
            // gone
};

struct LoadResult {
  uint32_t blocks_loaded = 0;  // leading run of the blocks asked for that is proved and complete in the caller's memory
  absl::Status status;         // of the first block that is not; OK when all are
};

// Part of a payload, and where it is to go.
struct PayloadRange {
  uint64_t offset = 0;  // in the payload, bytes
  std::span<std::byte> destination;
};

// `count` consecutive blocks from block `first` of the chain that were missed for one cause.
struct MissRun {
  uint32_t first = 0;
  uint32_t count = 0;
  stemcache::v1::MissCause cause = stemcache::v1::MISS_CAUSE_UNSPECIFIED;
  uint32_t estimate_ms = 0;  // with NOT_YET: when it may be there; 0 = not known

  friend bool operator==(const MissRun&, const MissRun&) = default;
};

// A pinned, leading run of blocks. Released when it is destroyed, once the loads and views that use it have ended.
// A position is block * parts_asked() + index of the part in the request; with one part it is the block.
// A promise can break (the peer that held a block died): matched_blocks() then shrinks, and misses() says why. When the
// node itself dies, what had not landed loads as Unavailable.
// Threads: any, except that moving, assigning and destroying it are the owner's. May outlive the client: its memory
// stays mapped, and blocks that had landed can still be proved and read.
class Stem {
 public:
  Stem() = default;
  explicit Stem(std::shared_ptr<StemState> state) : state_(std::move(state)) {}
  Stem(Stem&&) noexcept = default;
  Stem& operator=(Stem&&) noexcept = default;

  // False for a default-constructed or moved-from Stem, on which nothing else may be called.
  bool valid() const { return state_ != nullptr; }

  // Blocks promised and not lost, of chain_blocks() asked for.
  uint32_t matched_blocks() const;
  uint32_t chain_blocks() const;
  uint32_t parts_asked() const;
  // Whether a reader of the matched blocks needs this position, and it lands: of a part in a window or state group only the last blocks do.
  bool needs(uint32_t position) const;
  // Blocks that have landed from the first on: Load() of them does not wait.
  uint32_t landed_blocks() const;

  // Where a block came from for this acquire (the slowest of its parts); UNSPECIFIED until it lands.
  // `block` < chain_blocks().
  stemcache::v1::Source source(uint32_t block) const;

  // Covers matched_blocks()..chain_blocks() without gaps.
  std::vector<MissRun> misses() const;

  // How sure the match was.
  stemcache::v1::Truth truth() const;

  // With a miss for INCOMPATIBLE: in what the nearest namespace differs under which the prompt is known. No field set otherwise.
  stemcache::v1::Difference difference() const;

 private:
  friend class CacheClient;

  std::shared_ptr<StemState> state_;
};

// A payload read in place. Keeps its stem pinned. Threads: any.
class View {
 public:
  View() = default;
  View(std::shared_ptr<StemState> state, std::span<const std::byte> payload)
      : state_(std::move(state)), payload_(payload) {}

  std::span<const std::byte> payload() const { return payload_; }
  // True while the session that pins the payload lives. Read first, then ask: after false, what was read is a miss.
  bool intact() const;

 private:
  std::shared_ptr<StemState> state_;
  std::span<const std::byte> payload_;
};

}  // namespace stem
