#include "services/node/tiers/scrubber.h"

#include <algorithm>
#include <utility>

namespace stem {
namespace {
constexpr double kBlocksPerStepMin = 8;  // of 2 MiB: about a millisecond
constexpr int kLooksPerStep = 16;        // that may find none
}  // namespace

void Scrubber::Step(absl::Time now) {
  const absl::Duration since = now - std::exchange(last_, now);
  if (period_ <= absl::ZeroDuration() || since == absl::InfiniteDuration()) return;
  const std::vector<BlockPool*> pools = spaces_.pools();
  if (pools.empty()) return;
  uint64_t slots = 0;
  for (const BlockPool* pool : pools) slots += pool->slots();
  const double in_a_tick = absl::FDivDuration(kTick, period_) * static_cast<double>(slots);
  due_ += absl::FDivDuration(since, period_) * static_cast<double>(slots);
  due_ = std::min(due_, std::max(kBlocksPerStepMin, 2 * in_a_tick));
  for (int in_vain = 0; due_ >= 1 && in_vain < kLooksPerStep;) {
    if (ProveNext(pools)) {
      --due_;
    } else {
      ++in_vain;
    }
  }
}

bool Scrubber::ProveNext(const std::vector<BlockPool*>& pools) {
  pool_ %= pools.size();
  BlockPool& pool = *pools[pool_];
  const BlockPin pin = pool.PinNext(&next_);
  if (!pin.valid()) {
    if (next_ == 0) ++pool_;
    return false;
  }
  metrics_.CountScrubbed(1);
  if (!Promoter::IsGood(pin)) promoter_.Quarantine(pool, pin.meta(), "dram", "the scrub found it bad");
  return true;
}

}  // namespace stem
