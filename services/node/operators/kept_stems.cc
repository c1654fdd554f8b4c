#include "services/node/operators/kept_stems.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"

namespace stem {

KeptStems::~KeptStems() { Expire(absl::InfiniteFuture()); }

absl::Status KeptStems::Keep(BlockPool& pool, const BlockName& last, std::span<const BlockName> names, uint32_t blocks,
                             absl::Time until) {
  MutexLock lock(mutex_);
  const auto it = stems_.find(last);
  if (it == stems_.end() && stems_.size() >= kKeptStemsMax) {
    return absl::ResourceExhaustedError(absl::StrCat(kKeptStemsMax, " stems are kept here, the limit"));
  }
  STEM_ASSIGN(std::vector<BlockPin> pins, pool.Keep(names));
  if (it != stems_.end()) {
    it->second.pool->LetGo(std::move(it->second.pins));
    stems_.erase(it);
  }
  if (!pins.empty()) stems_[last] = {.pool = &pool, .pins = std::move(pins), .blocks = blocks, .until = until};
  return absl::OkStatus();
}

uint32_t KeptStems::LetGo(const BlockName& last) {
  MutexLock lock(mutex_);
  const auto it = stems_.find(last);
  if (it == stems_.end()) return 0;
  const uint32_t blocks = it->second.blocks;
  it->second.pool->LetGo(std::move(it->second.pins));
  stems_.erase(it);
  return blocks;
}

void KeptStems::Forget(const std::vector<BlockName>& gone) {
  const absl::flat_hash_set<BlockName> names(gone.begin(), gone.end());
  MutexLock lock(mutex_);
  for (auto it = stems_.begin(); it != stems_.end();) {
    std::vector<BlockPin>& pins = it->second.pins;
    const auto first_gone = std::stable_partition(pins.begin(), pins.end(), [&](const BlockPin& pin) { return !names.contains(pin.meta().name); });
    std::vector<BlockPin> ended(std::make_move_iterator(first_gone), std::make_move_iterator(pins.end()));
    pins.erase(first_gone, pins.end());
    it->second.pool->LetGo(std::move(ended));
    const auto visited = it++;
    if (pins.empty()) stems_.erase(visited);
  }
}

void KeptStems::Expire(absl::Time now) {
  MutexLock lock(mutex_);
  for (auto it = stems_.begin(); it != stems_.end();) {
    const auto visited = it++;
    if (visited->second.until > now) continue;
    visited->second.pool->LetGo(std::move(visited->second.pins));
    stems_.erase(visited);
  }
}

}  // namespace stem
