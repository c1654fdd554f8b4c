// Who leaves a tier first. A policy says, the pool does: policies are pure, hold ids and what they were told, take `now` as an
// argument, draw no unseeded random number, and are not thread-safe (the pool calls them under its lock). The node, the
// simulator and the tests use them unchanged.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/time/time.h"

namespace stem {

// Names a block in its pool; dense, reused after Remove.
using BlockId = uint32_t;
inline constexpr BlockId kNoBlock = ~BlockId{0};

// What the engine said of the conversation that a block belongs to.
enum class SessionHint : uint8_t { kNone, kWillResume, kEnded };

// What a policy may know of a block and of the request that uses it.
struct BlockInfo {
  uint64_t key = 0;            // what ghosts know the block by: 64 bits of its key
  BlockId parent = kNoBlock;   // the block before it in its chain, whether or not this tier holds it
  uint32_t depth = 0;          // blocks before it in its chain
  uint64_t request = 0;        // that uses it: all blocks of one request carry one number, and come in chain order
  uint64_t session = 0;        // the conversation; 0 = not told
  SessionHint hint = SessionHint::kNone;
  bool copy = false;           // another node holds it too
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `id` enters the tier.
  virtual void Admit(BlockId id, const BlockInfo& info, absl::Time now) = 0;
  // A request uses `id`, which the tier holds. An id that is not held is ignored, here and below.
  virtual void Touch(BlockId id, const BlockInfo& info, absl::Time now) = 0;
  // `id` left the tier. Required before the id is reused.
  virtual void Remove(BlockId id) = 0;
  // The block to give up first; nothing when the tier is empty. It stays until Remove; asked again without anything else
  // between, the answer is the same.
  virtual std::optional<BlockId> Victim(absl::Time now) = 0;
  // The victim cannot go now (in use): offer others first. Not a use.
  virtual void Defer(BlockId id, absl::Time now) = 0;
};

}  // namespace stem
