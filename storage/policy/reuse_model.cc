#include "storage/policy/reuse_model.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace stem {
namespace {

constexpr uint64_t kFirstBinUses = 64;
constexpr double kHazardPrior = 0.05;
// Of a block that another node copied since, the part of its worth that is lost with it: it is read there, not computed (README.md).
constexpr float kMovedWorth = 0.25F;
constexpr double kAliveMin = 1e-9;  // so many are always left, to divide by
constexpr float kKeepAQuarterHorizon = 0.85F;  // of what was learned a horizon ago, half counts
// A class's own figures outweigh its family's, and those all blocks', once so many have reached an age.
constexpr double kFamilyWeight = 10;
constexpr double kAllWeight = 5;

}  // namespace

ReuseModel::ReuseModel(uint64_t horizon_uses, std::vector<uint32_t> family, uint32_t over)
    : family_(std::move(family)),
      families_(*std::max_element(family_.begin(), family_.end()) + 1),
      over_(over),
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
  kept_.resize(bins() + 1);
  by_rank_.resize(counts_.size());
  ordered_.resize(2 * counts_.size());
  places_.resize(ordered_.size());
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
  const auto last = std::find_if(family_counts_.rbegin(), family_counts_.rbegin() + static_cast<ptrdiff_t>(bins()),
                                 [](const Count& all) { return all.reached > 0; });
  reached_bins_ = static_cast<size_t>(family_counts_.rbegin() + static_cast<ptrdiff_t>(bins()) - last);
  // Most classes are seldom seen: those without a sample of their own share their family's ranks.
  constexpr uint32_t kNone = ~uint32_t{0};
  std::vector<uint32_t> unseen(families_, kNone);
  for (uint32_t cls = 0; cls < classes(); ++cls) {
    const bool seen = counts_[cls * bins()].reached > 0;
    uint32_t& like = unseen[family_[cls]];
    if (!seen && like != kNone) {
      std::copy_n(ranks_.begin() + like * bins(), bins(), ranks_.begin() + cls * bins());
      std::copy_n(chances_.begin() + like * bins(), bins(), chances_.begin() + cls * bins());
      continue;
    }
    if (!seen) like = cls;
    EstimateHazards(cls);
    RankAges(cls);
  }
  OrderStates();
}

void ReuseModel::OrderStates() {
  // Ranks are not negative: as bits they have the same order.
  const auto entry = [](float rank, uint32_t state) { return uint64_t{std::bit_cast<uint32_t>(rank)} << 32 | state; };
  for (uint32_t state = 0; state < states(); ++state) by_rank_[state] = entry(ranks_[state], state);
  std::sort(by_rank_.begin(), by_rank_.end());
  // Those of moved blocks have the same order among themselves: merged in.
  size_t stayed = 0, moved = 0;
  for (uint64_t& next : ordered_) {
    const auto moved_entry = [&] {
      const auto state = static_cast<uint32_t>(by_rank_[moved]);
      return entry(ranks_[state] * kMovedWorth, states() + state);
    };
    if (moved == states() || (stayed < states() && by_rank_[stayed] < moved_entry())) {
      next = by_rank_[stayed++];
    } else {
      next = moved_entry();
      ++moved;
    }
  }
  for (uint32_t place = 0; place < ordered_.size(); ++place) places_[state_at(place)] = place;
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
    const double of_all = family_[cls] == over_ ? 0 : (all.again + prior) / (all.reached + 1.0);
    const double of_family = (family.again + kAllWeight * of_all) / (family.reached + kAllWeight);
    hazards_[bin] = std::min(1.0, (own.again + kFamilyWeight * of_family) / (own.reached + kFamilyWeight));
  }
}

void ReuseModel::RankAges(uint32_t cls) {
  // Of one new block held up to the start of each bin, or until it is used: hits, and time held, expected.
  double alive = 1;
  kept_[0] = {};
  for (size_t bin = 0; bin < bins(); ++bin) {
    const double again = alive * hazards_[bin];
    const double left = std::max(alive - again, kAliveMin);
    kept_[bin + 1] = {.alive = left,
                      .hits = kept_[bin].hits + again,
                      .held = kept_[bin].held + (alive - again / 2) * WidthOf(bin)};
    alive = left;
  }
  kept_[0].alive = 1;
  const auto slope = [this](size_t from, size_t to) {
    return (kept_[to].hits - kept_[from].hits) / (kept_[to].held - kept_[from].held);
  };
  // The steepest way from each age to a later one: along the upper hull of what lies behind it.
  hull_.assign(1, bins());
  for (size_t from = bins(); from-- > 0;) {
    while (hull_.size() > 1 && slope(from, hull_.back()) <= slope(hull_.back(), hull_[hull_.size() - 2])) hull_.pop_back();
    ranks_[cls * bins() + from] = static_cast<float>(slope(from, hull_.back()));
    hull_.push_back(from);
    // No age that none has reached yet.
    chances_[cls * bins() + from] =
        from < reached_bins_ ? static_cast<float>((kept_[reached_bins_].hits - kept_[from].hits) / kept_[from].alive) : 0;
  }
}

}  // namespace stem
