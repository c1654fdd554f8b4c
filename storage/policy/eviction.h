// Who leaves a tier first. A policy says, the pool does: policies are pure, hold ids and what they were told, know no
// clock (time is counted in uses), draw no unseeded random number, and are not thread-safe (the pool calls them under its lock).
// The node, the simulator and the tests use them unchanged.
#pragma once

#include <cstdint>
#include <optional>

#include "proto/conversation.h"

namespace stem {

// Names a block in its pool; dense, reused after Remove.
using BlockId = uint32_t;
inline constexpr BlockId kNoBlock = ~BlockId{0};

// What a policy may know of a block and of the request that uses it.
struct BlockInfo {
  uint64_t key = 0;            // what ghosts know the block by: 64 bits of its key
  BlockId parent = kNoBlock;   // the block before it in its chain, whether or not this tier holds it
  uint32_t depth = 0;          // blocks before it in its chain
  uint64_t request = 0;        // that uses it: all blocks of one request carry one number, and come in chain order
  Conversation conversation;   // of the request
  bool copied = false;         // by another node, in this use: from now on it is not the last one
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `id` enters the tier.
  virtual void Admit(BlockId id, const BlockInfo& info) = 0;
  // A request uses `id`, which the tier holds. An id that is not held is ignored, here and below.
  virtual void Touch(BlockId id, const BlockInfo& info) = 0;
  // `id` left the tier. Required before the id is reused.
  virtual void Remove(BlockId id) = 0;
  // The block to give up first; nothing when the tier is empty. It stays until Remove; asked again without anything else
  // between, the answer is the same.
  virtual std::optional<BlockId> Victim() = 0;
  // The engine will not go on with a conversation. Not a use.
  virtual void EndConversation(uint64_t /*conversation*/) {}
  // The victim cannot go now (in use): offer others first. Not a use.
  virtual void Defer(BlockId id) = 0;
};

}  // namespace stem
