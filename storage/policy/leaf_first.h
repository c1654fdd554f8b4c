// Law 7 for any policy: what it offers is never a block that has a child in the tier. When the policy's victim has, the least
// recently used leaf below it goes instead, so that a chain is given up from its end.
#pragma once

#include <memory>
#include <vector>

#include "storage/policy/block_lists.h"
#include "storage/policy/eviction.h"

namespace stem {

class LeafFirst final : public EvictionPolicy {
 public:
  explicit LeafFirst(std::unique_ptr<EvictionPolicy> ranked) : ranked_(std::move(ranked)) {}

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void EndConversation(uint64_t conversation) override { ranked_->EndConversation(conversation); }
  void Defer(BlockId id) override;

 private:
  BlockId LeafBelow(BlockId id);

  const std::unique_ptr<EvictionPolicy> ranked_;
  BlockLists children_{0};        // list p: held children of block p, the least recent in front; p itself may be elsewhere
  std::vector<bool> held_;        // by id
  std::vector<BlockId> parents_;  // by id
  BlockId root_ = kNoBlock;       // what ranked_ offered last, and
  BlockId resume_ = kNoBlock;     // a block below it from which the search may go on
};

}  // namespace stem
