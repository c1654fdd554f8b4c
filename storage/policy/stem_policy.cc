#include "storage/policy/stem_policy.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>

#include "storage/policy/leaf_first.h"
#include "storage/policy/lfu.h"
#include "proto/mixed.h"
#include "storage/policy/recency.h"

namespace stem {
namespace {

// Uses of blocks that are remembered: conversations pause for minutes however small the tier. 40 to 100 bytes each.
constexpr uint64_t kHorizonUsesMin = 1 << 18;
constexpr uint64_t kHorizonCapacities = 8;
// The shadow tiers hold 512 to 1023 blocks: fewer misjudge, more cost time (tests/bench/policy_grid).
constexpr size_t kShadowBlocks = 256;
// Hits of the shadows count half after so many uses.
constexpr double kJudgeUsesMin = 20'000;
constexpr double kJudgeCapacities = 2;
constexpr double kChallenge = 1.01;  // a challenger must have hit so much more than the leader
// How often blocks are moved on in age, and ranks worked out anew, in uses.
constexpr uint64_t kAgesACapacity = 16, kAgeUsesMin = 64;
constexpr uint64_t kAgesATinyCapacity = 8;  // where kAgeUsesMin would be seldomer: blocks of one age are told apart no further
constexpr uint64_t kRefreshUsesMin = 2000, kRefreshesACapacity = 4;

}  // namespace

StemPolicy::StemPolicy(size_t capacity_blocks)
    : capacity_(capacity_blocks),
      sample_shift_(std::max(0, static_cast<int>(std::bit_width(capacity_blocks / kShadowBlocks)) - 1)),
      history_(std::max<uint64_t>(kHorizonCapacities * capacity_blocks, kHorizonUsesMin)) {
  const size_t shadow_blocks = std::max<size_t>(capacity_blocks >> sample_shift_, 1);
  const auto shadow = [&](std::unique_ptr<EvictionPolicy> policy) {
    return std::make_unique<ShadowTier>(std::move(policy), shadow_blocks);
  };
  auto own = std::make_unique<ReuseRank>(history_);
  auto own_shadow = std::make_unique<ReuseRank>(history_);
  own_ = own.get();
  own_shadow_ = own_shadow.get();
  experts_.push_back({std::move(own), shadow(std::move(own_shadow))});
  experts_.push_back({std::make_unique<LruPolicy>(), shadow(std::make_unique<LeafFirst>(std::make_unique<LruPolicy>()))});
  experts_.push_back({std::make_unique<LfuPolicy>(capacity_blocks),
                      shadow(std::make_unique<LeafFirst>(std::make_unique<LfuPolicy>(shadow_blocks)))});
}

void StemPolicy::Admit(BlockId id, const BlockInfo& info) {
  if (id >= held_.size()) held_.resize(id + size_t{1});
  held_[id] = true;
  Add(info, id, true);
}

void StemPolicy::Touch(BlockId id, const BlockInfo& info) {
  if (id < held_.size() && held_[id]) Add(info, id, false);
}

void StemPolicy::Add(const BlockInfo& info, BlockId id, bool admitted) {
  if (!chain_.empty() && chain_.back().request != info.request) EndRequest();
  ids_.push_back(id);
  chain_.push_back(info);
  admitted_.push_back(admitted);
}

void StemPolicy::EndRequest() {
  if (chain_.empty()) return;
  history_.Use(chain_);
  for (size_t i = 0; i < ids_.size(); ++i) {
    for (Expert& expert : experts_) {
      if (admitted_[i]) {
        expert.policy->Admit(ids_[i], chain_[i]);
      } else {
        expert.policy->Touch(ids_[i], chain_[i]);
      }
    }
  }
  Judge();
  ids_.clear();
  chain_.clear();
  admitted_.clear();
  Refresh();
}

void StemPolicy::Judge() {
  sampled_.clear();
  const uint64_t mask = (uint64_t{1} << sample_shift_) - 1;
  for (const BlockInfo& info : chain_) {
    if ((Mixed(info.key) & mask) == 0) sampled_.push_back(info);
  }
  const double half_life = std::max(kJudgeUsesMin, kJudgeCapacities * static_cast<double>(capacity_));
  const double keep = std::exp2(-static_cast<double>(chain_.size()) / half_life);
  size_t best = leader_;
  for (size_t i = 0; i < experts_.size(); ++i) {
    Expert& expert = experts_[i];
    expert.hits = expert.hits * keep + expert.shadow->Request(sampled_);
  }
  for (size_t i = 0; i < experts_.size(); ++i) {
    if (experts_[i].hits > experts_[best].hits * (best == leader_ ? kChallenge : 1)) best = i;
  }
  leader_ = best;
}

void StemPolicy::Refresh() {
  const uint64_t now = history_.model().now();
  if (now - aged_at_ < std::max<uint64_t>(capacity_ / kAgesACapacity, std::min<uint64_t>(capacity_ / kAgesATinyCapacity, kAgeUsesMin))) return;
  aged_at_ = now;
  own_->Age();
  own_shadow_->Age();
  if (now - refreshed_at_ < std::max<uint64_t>(capacity_ / kRefreshesACapacity, kRefreshUsesMin)) return;
  refreshed_at_ = now;
  history_.Refresh();
  own_->Reorder();
  own_shadow_->Reorder();
}

void StemPolicy::Remove(BlockId id) {
  if (id >= held_.size() || !held_[id]) return;
  if (!chain_.empty()) EndRequest();
  held_[id] = false;
  for (Expert& expert : experts_) expert.policy->Remove(id);
}

std::optional<BlockId> StemPolicy::Victim() {
  EndRequest();
  return experts_[leader_].policy->Victim();
}

void StemPolicy::EndConversation(uint64_t conversation) {
  EndRequest();
  history_.EndConversation(conversation);
}

void StemPolicy::Defer(BlockId id) {
  EndRequest();
  for (Expert& expert : experts_) expert.policy->Defer(id);
}

}  // namespace stem
