#include "storage/policy/slru.h"

namespace stem {

void SlruPolicy::Admit(BlockId id, const BlockInfo& /*info*/) { lists_.PushBack(kProbation, id); }

void SlruPolicy::Touch(BlockId id, const BlockInfo& /*info*/) { Defer(id); }

void SlruPolicy::Remove(BlockId id) {
  if (lists_.Contains(id)) lists_.Unlink(id);
}

std::optional<BlockId> SlruPolicy::Victim() {
  if (!lists_.empty(kProbation)) return lists_.Front(kProbation);
  if (!lists_.empty(kProtected)) return lists_.Front(kProtected);
  return std::nullopt;
}

void SlruPolicy::Defer(BlockId id) {
  if (!lists_.Contains(id)) return;
  lists_.MoveToBack(kProtected, id);
  if (lists_.size(kProtected) > protected_max_) lists_.MoveToBack(kProbation, lists_.Front(kProtected));
}

}  // namespace stem
