// Window and state groups: which positions a reader needs depends on where its stem ends, so that is chosen before planning. The stem is the
// longer of what this node can serve alone and what the directory names; then it comes whole, or the former is served.
#include <algorithm>

#include "services/node/fetch/fetch.h"

namespace stem {

// The most blocks of which this node has every part that their reader needs.
uint32_t Fetch::LocalStem() const {
  constexpr uint32_t kBlocksPerLook = 64;
  std::vector<BlockName> names;
  std::vector<BlockPool::Presence> found;       // of the blocks up to the end of the last look
  std::vector<uint32_t> held(parts_asked_, 0);  // by part: blocks up to this one, without a gap
  uint32_t stem = 0;
  for (uint32_t block = 0; block < blocks(); ++block) {
    if (block % kBlocksPerLook == 0) {
      names.clear();
      for (size_t each = block; each < std::min<size_t>(block + kBlocksPerLook, blocks()); ++each) {
        for (size_t part = 0; part < parts_asked_; ++part) names.push_back(NameOf(each, part));
      }
      pool_.FindAll(names, found);
    }
    bool serves = true;
    for (size_t part = 0; part < parts_asked_; ++part) {
      held[part] = found[block * parts_asked_ + part] == BlockPool::Presence::kAbsent ? 0 : held[part] + 1;
      if (window_blocks_[part] == 0 && held[part] == 0) return stem;
      serves = serves && held[part] >= std::min(window_blocks_[part], block + 1);
    }
    if (serves) stem = block + 1;
  }
  return stem;
}

void Fetch::Need(uint32_t stem_blocks) {
  stem_blocks_ = stem_blocks;
  names_.clear();
  positions_.clear();
  for (uint32_t block = 0; block < stem_blocks; ++block) {
    for (size_t part = 0; part < parts_asked_; ++part) {
      if (!IsNeeded(window_blocks_[part], block, stem_blocks)) continue;
      names_.push_back(NameOf(block, part));
      positions_.push_back(static_cast<uint32_t>(block * parts_asked_ + part));
    }
  }
}

void Fetch::ChooseStem() {
  asked_from_ = 0;
  match_ = MatchFrom(0);
  const uint32_t local = LocalStem();
  Need(match_->ok() ? std::max(local, (*match_)->matched_blocks()) : local);
}

void Fetch::PlanLocalStem() {
  SetAside(0);  // first: what they were to fill is given up
  if (!aside_.empty()) {  // and what is planned anew may be what others await of it
    StartReads();
    BringAside();
  }
  pinned_ = 0;     // another stem has other indices; what is pinned is planned again
  pinned_bytes_ = 0;
  acquired_.clear_ready();
  lent_.clear();
  for (const std::shared_ptr<RemoteRun>& run : runs_) parts_.peers.Return(run->lease(), {});
  runs_.clear();
  corrupt_.clear();
  tallies_.clear();
  Need(LocalStem());
  PlanLocal();
  if (!planned_whole()) {
    SetAside(0);
    Need(0);
  }
  acquired_.clear_misses();
  PlanMisses(match_.has_value() && match_->ok() ? &**match_ : nullptr, 0);
}

}  // namespace stem
