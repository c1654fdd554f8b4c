// Who leaves a tier first. A policy says, the pool does: policies are pure, hold no memory of blocks beyond ids, take `now`
// as an argument and are not thread-safe (the pool calls them under its lock).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/time/time.h"

namespace stem {

// Names a block in its pool; dense, reused after Remove.
using BlockId = uint32_t;
inline constexpr BlockId kNoBlock = ~BlockId{0};

// What a policy may know of a block when it enters the tier.
struct BlockInfo {
  uint64_t bytes = 0;
  bool copy = false;  // fetched from a peer that also holds it
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // `id` enters the tier. The blocks of one request are admitted and touched last block first, so that a parent is never
  // less recent than its child.
  virtual void Admit(BlockId id, const BlockInfo& info, absl::Time now) = 0;
  virtual void Touch(BlockId id, absl::Time now) = 0;
  // `id` left the tier. Required before the id is reused.
  virtual void Remove(BlockId id) = 0;
  // The block to give up first; nothing when the tier is empty. Changes nothing.
  virtual std::optional<BlockId> Victim(absl::Time now) const = 0;
  // The victim cannot go now (in use, or law 7: its child is held): rank it with the most recent.
  virtual void Defer(BlockId id, absl::Time now) = 0;
};

// Least recently used first.
class LruPolicy final : public EvictionPolicy {
 public:
  void Admit(BlockId id, const BlockInfo& info, absl::Time now) override;
  void Touch(BlockId id, absl::Time now) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim(absl::Time now) const override;
  void Defer(BlockId id, absl::Time now) override;

 private:
  struct Link {
    BlockId newer = kNoBlock;
    BlockId older = kNoBlock;
  };
  void PushNewest(BlockId id);
  void Unlink(BlockId id);

  std::vector<Link> links_;  // by id
  BlockId newest_ = kNoBlock;
  BlockId oldest_ = kNoBlock;
};

}  // namespace stem
