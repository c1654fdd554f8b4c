#include "storage/policy/sampled_hit_curve.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace stem {
namespace {

// Of a cache that holds as much as is told of, and a little more so that what falls out is beyond it.
double FractionFor(const SampledHitCurve::Options& options) {
  const double slots = static_cast<double>(options.capacity_slots) * options.capacity_factor_max * 1.25;
  return std::clamp(static_cast<double>(options.sampled_max) / std::max(slots, 1.0), 1e-6, 1.0);
}

uint64_t ThresholdFor(double fraction) {
  return fraction >= 1 ? UINT64_MAX : static_cast<uint64_t>(std::ldexp(fraction, 64));
}

}  // namespace

SampledHitCurve::SampledHitCurve(const Options& options)
    : options_(options), fraction_(FractionFor(options)), threshold_(ThresholdFor(fraction_)) {}

size_t SampledHitCurve::BucketOf(double slots) {
  const double bucket = std::log2(std::max(slots, 1.0)) * kBucketsPerOctave;
  return std::min(static_cast<size_t>(bucket), kBuckets - 1);
}

void SampledHitCurve::Request(const Asked& asked, absl::Time now) {
  Turn(now);
  now_.blocks += asked.keys.size();
  now_.blocks_held += asked.blocks_held;
  request_.clear();
  double room = 0;  // that the run up to here needs
  bool leading = true;
  for (const BlockKey& key : asked.keys) {
    if (key.high > threshold_) continue;  // keys are hashes
    ++now_.references;
    const uint32_t id = IdOf({asked.space, PartKey(key, asked.part)}, asked.slots);
    request_.push_back(id);
    const uint64_t depth = leading ? stack_.Depth(id) : 0;
    leading = depth > 0;
    if (!leading) continue;
    room = std::max(room, static_cast<double>(depth) / fraction_);
    now_.hits[BucketOf(room)] += 1;
  }
  for (const uint32_t id : request_) Use(id);
  if (stack_.size() < 2 * options_.sampled_max) return;
  for (const uint32_t id : stack_.TakeOldest(stack_.size() - options_.sampled_max)) {
    ids_.erase(sampled_[id].name);
    free_ids_.push_back(id);
  }
}

uint32_t SampledHitCurve::IdOf(const BlockName& name, uint32_t slots) {
  const auto [entry, fresh] = ids_.try_emplace(name, 0);
  if (!fresh) return entry->second;
  if (free_ids_.empty()) {
    free_ids_.push_back(static_cast<uint32_t>(sampled_.size()));
    sampled_.emplace_back();
  }
  const uint32_t id = free_ids_.back();
  free_ids_.pop_back();
  sampled_[id] = {.name = name, .slots = slots, .period = kNever};
  return entry->second = id;
}

void SampledHitCurve::Use(uint32_t id) {
  Sampled& sampled = sampled_[id];
  stack_.Use(id, sampled.slots);
  if (sampled.period == period_) return;
  if (sampled.period + 1 == period_) before_.slots -= sampled.slots;
  sampled.period = period_;
  now_.slots += sampled.slots;
}

void SampledHitCurve::Turn(absl::Time now) {
  if (now_.since == absl::Time()) now_.since = before_.since = now;
  if (now - now_.since < options_.period) return;
  before_ = std::exchange(now_, Period{.since = now});
  ++period_;
}

SampledHitCurve::Curve SampledHitCurve::Read(absl::Time now) {
  Turn(now);
  Curve curve;
  curve.blocks = now_.blocks + before_.blocks;
  curve.blocks_held = now_.blocks_held + before_.blocks_held;
  curve.references = now_.references + before_.references;
  curve.sampled_fraction = fraction_;
  curve.since = before_.since;
  curve.slots_used = std::max(now_.slots + before_.slots, 0.0) / fraction_;
  curve.hits.resize(kBuckets);
  for (size_t i = 0; i < kBuckets; ++i) curve.hits[i] = double{now_.hits[i]} + double{before_.hits[i]};
  return curve;
}

double SampledHitCurve::Curve::Hits(double slots) const {
  if (slots < 1 || hits.empty()) return 0;
  double sampled = 0;
  const size_t last = BucketOf(slots);
  for (size_t i = 0; i < last; ++i) sampled += hits[i];
  // Of the bucket that it falls in, the part below it.
  const double begin = std::exp2(static_cast<double>(last) / kBucketsPerOctave);
  const double end = std::exp2(static_cast<double>(last + 1) / kBucketsPerOctave);
  sampled += hits[last] * (slots - begin) / (end - begin);
  const double all = static_cast<double>(blocks);
  const double adjusted = sampled / sampled_fraction + all - static_cast<double>(references) / sampled_fraction;
  return std::clamp(adjusted, 0.0, all);
}

}  // namespace stem
