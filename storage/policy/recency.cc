#include "storage/policy/recency.h"

namespace stem {

void FifoPolicy::Admit(BlockId id, const BlockInfo& /*info*/) { queue_.PushBack(0, id); }

void FifoPolicy::Touch(BlockId /*id*/, const BlockInfo& /*info*/) {}

void FifoPolicy::Remove(BlockId id) {
  if (queue_.Contains(id)) queue_.Unlink(id);
}

std::optional<BlockId> FifoPolicy::Victim() {
  if (queue_.empty(0)) return std::nullopt;
  return queue_.Front(0);
}

void FifoPolicy::Defer(BlockId id) {
  if (queue_.Contains(id)) queue_.MoveToBack(0, id);
}

void LruPolicy::Touch(BlockId id, const BlockInfo& /*info*/) { Defer(id); }

}  // namespace stem
