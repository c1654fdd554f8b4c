#include "storage/policy/reuse_model.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

namespace stem {
namespace {

constexpr uint64_t kFirstBinUses = 64;
constexpr double kHazardPrior = 0.05;
constexpr float kKeepAQuarterHorizon = 0.85F;  // of what was learned a horizon ago, half counts
// A class's own figures outweigh its family's, and those all blocks', once so many have reached an age.
constexpr double kFamilyWeight = 10;
constexpr double kAllWeight = 5;

}  // namespace

ReuseModel::ReuseModel(uint64_t horizon_uses, std::vector<uint32_t> family)
    : family_(std::move(family)),
      families_(*std::max_element(family_.begin(), family_.end()) + 1),
      horizon_(std::bit_ceil(horizon_uses)) {
  starts_.push_back(0);
  for (uint64_t start = kFirstBinUses; start < horizon_; start *= 2) {
    starts_.push_back(start);
    if (start + start / 2 < horizon_) starts_.push_back(start + start / 2);
  }
  cursors_.assign(bins(), 1);
  counts_.resize(classes() * bins());
  family_counts_.resize((families_ + 1) * bins());
  hazards_.resize(bins());
  ranks_.resize(counts_.size());
  chances_.resize(counts_.size());
  states_.resize(counts_.size());
  places_.resize(counts_.size());
  std::iota(states_.begin(), states_.end(), 0u);
  Refresh();
}

uint32_t ReuseModel::BinOf(uint64_t age) const {
  if (age < kFirstBinUses) return 0;
  const auto octave = static_cast<uint32_t>(std::bit_width(age / kFirstBinUses) - 1);
  const uint32_t upper = (age >> (octave + std::bit_width(kFirstBinUses) - 2)) & 1;
  return std::min<uint32_t>(1 + 2 * octave + upper, static_cast<uint32_t>(bins()) - 1);
}

uint64_t ReuseModel::Sample(uint32_t cls) {
  samples_.push_back({.at = now_ - 1, .cls = cls});
  ++counts_[cls * bins()].reached;
  return first_sample_ + samples_.size() - 1;
}

void ReuseModel::UsedAgain(uint64_t sample) {
  if (sample < first_sample_) return;
  Sampled& was = samples_[sample - first_sample_];
  if (was.again || now_ - was.at >= horizon_) return;
  was.again = true;
  ++counts_[was.cls * bins() + BinOf(now_ - was.at)].again;
}

void ReuseModel::Advance() {
  const uint64_t end = first_sample_ + samples_.size();
  for (size_t bin = 1; bin < bins(); ++bin) {
    uint64_t& next = cursors_[bin];
    for (; next < end; ++next) {
      const Sampled& sample = samples_[next - first_sample_];
      if (now_ - sample.at < starts_[bin]) break;
      if (!sample.again) ++counts_[sample.cls * bins() + bin].reached;
    }
  }
  for (; !samples_.empty() && now_ - samples_.front().at >= horizon_; ++first_sample_) samples_.pop_front();
}

void ReuseModel::Forget() {
  for (Count& count : counts_) {
    count.again *= kKeepAQuarterHorizon;
    count.reached *= kKeepAQuarterHorizon;
  }
}

void ReuseModel::Refresh() {
  if (now_ - forgot_at_ >= horizon_ / 4) {
    Forget();
    forgot_at_ = now_;
  }
  SumFamilies();
  for (uint32_t cls = 0; cls < classes(); ++cls) {
    EstimateHazards(cls);
    RankAges(cls);
  }
  std::sort(states_.begin(), states_.end(),
            [this](uint32_t a, uint32_t b) { return std::pair(ranks_[a], a) < std::pair(ranks_[b], b); });
  for (uint32_t place = 0; place < states_.size(); ++place) places_[states_[place]] = place;
}

void ReuseModel::SumFamilies() {
  std::fill(family_counts_.begin(), family_counts_.end(), Count());
  for (size_t cls = 0; cls < classes(); ++cls) {
    for (size_t bin = 0; bin < bins(); ++bin) {
      const Count& own = counts_[cls * bins() + bin];
      for (const size_t row : {size_t{family_[cls]}, size_t{families_}}) {
        family_counts_[row * bins() + bin].again += own.again;
        family_counts_[row * bins() + bin].reached += own.reached;
      }
    }
  }
}

double ReuseModel::WidthOf(size_t bin) const {
  return static_cast<double>((bin + 1 < bins() ? starts_[bin + 1] : horizon_) - starts_[bin]);
}

void ReuseModel::EstimateHazards(uint32_t cls) {
  for (size_t bin = 0; bin < bins(); ++bin) {
    // Before anything is known: the older, the less likely, as LRU has it.
    const double width = WidthOf(bin);
    const double prior = kHazardPrior * width / (static_cast<double>(starts_[bin]) + width);
    const Count& all = family_counts_[families_ * bins() + bin];
    const Count& family = family_counts_[family_[cls] * bins() + bin];
    const Count& own = counts_[cls * bins() + bin];
    const double of_all = (all.again + prior) / (all.reached + 1.0);
    const double of_family = (family.again + kAllWeight * of_all) / (family.reached + kAllWeight);
    hazards_[bin] = std::min(1.0, (own.again + kFamilyWeight * of_family) / (own.reached + kFamilyWeight));
  }
}

void ReuseModel::RankAges(uint32_t cls) {
  for (size_t from = 0; from < bins(); ++from) {
    // Held from this age up to the end of each later bin, or until it is used: hits, and time held, expected.
    double alive = 1, hits = 0, held = 0, best = 0, chance = 0;
    for (size_t bin = from; bin < bins(); ++bin) {
      const double again = alive * hazards_[bin];
      hits += again;
      held += (alive - again / 2) * WidthOf(bin);
      alive -= again;
      best = std::max(best, hits / held);
      if (family_counts_[families_ * bins() + bin].reached > 0) chance = hits;  // no age that none has reached yet
    }
    ranks_[cls * bins() + from] = static_cast<float>(best);
    chances_[cls * bins() + from] = static_cast<float>(chance);
  }
}

}  // namespace stem
