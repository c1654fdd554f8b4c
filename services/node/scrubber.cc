#include "services/node/scrubber.h"

#include <algorithm>
#include <utility>

namespace stem {
namespace {
constexpr int kBlocksPerStep = 8;  // of 2 MiB: about a millisecond
}  // namespace

void Scrubber::Step(absl::Time now) {
  const absl::Duration since = now - std::exchange(last_, now);
  if (period_ <= absl::ZeroDuration() || since == absl::InfiniteDuration()) return;
  const std::vector<BlockPool*> pools = spaces_.pools();
  uint64_t slots = 0;
  for (const BlockPool* pool : pools) slots += pool->slots();
  due_ = std::min(due_ + absl::FDivDuration(since, period_) * static_cast<double>(slots), double{kBlocksPerStep});
  for (; due_ >= 1; --due_) {
    if (!ProveNext(pools)) break;
  }
}

bool Scrubber::ProveNext(const std::vector<BlockPool*>& pools) {
  for (size_t tried = 0; tried <= pools.size(); ++tried) {
    if (pool_ >= pools.size()) {
      pool_ = 0;
      if (pools.empty()) return false;
    }
    BlockPool& pool = *pools[pool_];
    const BlockPin pin = pool.PinNext(&next_);
    if (pin.valid()) {
      metrics_.CountScrubbed(1);
      if (!Promoter::IsGood(pin)) promoter_.Quarantine(pool, pin.meta().name, "dram", "the scrub found it bad");
      return true;
    }
    ++pool_;
    next_ = 0;
  }
  return false;
}

}  // namespace stem
