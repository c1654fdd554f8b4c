// `stem`, the project's own policy. Its main expert ranks leaves by learned reuse (reuse_rank.h); beside it stand plain experts. All of
// them follow the tier, and each also runs a shadow tier of its own on a sample of the blocks; whichever shadow hit most lately
// picks the victims. So it is never for long much worse than the best of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "storage/policy/block_history.h"
#include "storage/policy/eviction.h"
#include "storage/policy/reuse_rank.h"
#include "storage/policy/shadow_tier.h"

namespace stem {

class StemPolicy final : public EvictionPolicy {
 public:
  explicit StemPolicy(size_t capacity_blocks);

  void Admit(BlockId id, const BlockInfo& info) override;
  void Touch(BlockId id, const BlockInfo& info) override;
  void Remove(BlockId id) override;
  std::optional<BlockId> Victim() override;
  void EndConversation(uint64_t conversation) override;
  void Defer(BlockId id) override;

 private:
  struct Expert {
    std::unique_ptr<EvictionPolicy> policy;
    std::unique_ptr<ShadowTier> shadow;
    double hits = 0;  // of its shadow, lately
  };
  void Add(const BlockInfo& info, BlockId id, bool admitted);
  // The request that was being told of is over, as far as it is known: learns from it and passes it on.
  void EndRequest();
  void Judge();
  void Refresh();

  const size_t capacity_;
  const int sample_shift_;  // one of 2^shift blocks is in the shadows
  BlockHistory history_;
  ReuseRank* own_;          // of the first expert
  ReuseRank* own_shadow_;
  std::vector<Expert> experts_;
  size_t leader_ = 0;
  std::vector<bool> held_;           // by id
  std::vector<BlockId> ids_;         // of the request that is being told of
  std::vector<BlockInfo> chain_;
  std::vector<bool> admitted_;
  std::vector<BlockInfo> sampled_;   // scratch of Judge
  uint64_t aged_at_ = 0;
  uint64_t refreshed_at_ = 0;
};

}  // namespace stem
