#include "services/node/records/demand.h"

#include <algorithm>
#include <cmath>

#include "services/runtime/clock.h"

namespace stem {
namespace {

constexpr double kFactorMin = 0.25;
constexpr double kFactorMax = 8;       // or as far as twice the SSD reaches
constexpr double kFactorMaxOfAll = 256;
constexpr int kPointsPerOctave = 4;

uint64_t LeadingFound(const AcquireOutcome::Counts& counts) {
  uint64_t found = 0;
  for (const uint64_t hits : counts.hits) found += hits;
  return found;
}

}  // namespace

Demand::Demand(const SpaceTable& spaces, uint64_t ssd_bytes) : spaces_(spaces), ssd_bytes_(ssd_bytes), factor_max_(kFactorMax) {
  double dram_bytes = 1;
  for (const auto& memory : spaces_.memories()) dram_bytes += static_cast<double>(memory->group.dram_bytes);
  factor_max_ = std::clamp(1 + 2 * static_cast<double>(ssd_bytes) / dram_bytes, kFactorMax, kFactorMaxOfAll);
}

void Demand::Count(const AskedChain& asked) {
  const absl::Time now = MonotonicNow();
  const AcquireOutcome::Counts counts = asked.outcome.counts();
  {
    MutexLock lock(stems_mutex_);
    stems_.Request(asked.space.fingerprint, asked.chain.keys, LeadingFound(counts), now);
  }
  const GroupMemory* const memory = asked.space.memory;
  MutexLock lock(curves_mutex_);
  const auto curve = curves_.try_emplace(memory, SampledHitCurve::Options{.capacity_slots = memory->pool->slots(),
                                                                          .capacity_factor_max = factor_max_})
                         .first;
  curve->second.Request({.space = asked.space.fingerprint,
                         .keys = asked.chain.keys,
                         .part = asked.chain.parts.front(),
                         .slots = static_cast<uint32_t>(asked.chain.parts.size()),
                         .blocks_held = counts.hits[v1::SOURCE_LOCAL_DRAM]},
                        now);
}

v1::HotStemsReply Demand::Stems(const HotStemsCall& call) {
  std::vector<HotStems::Stem> stems;
  {
    MutexLock lock(stems_mutex_);
    stems = stems_.Read(call.stems_max, call.below, MonotonicNow());
  }
  v1::HotStemsReply reply;
  for (const HotStems::Stem& stem : stems) {
    const Space* const space = spaces_.Find(stem.space);
    v1::HotStemsReply::Stem* const out = reply.add_stems();
    const absl::string_view fingerprint = stem.space.bytes(), key = stem.key.bytes();
    out->set_namespace_fingerprint(fingerprint.data(), fingerprint.size());
    out->set_model(space->spec.model);
    out->set_tenant(space->memory->group.name);
    out->set_key(key.data(), key.size());
    if (stem.parent.has_value()) out->set_parent(stem.parent->bytes().data(), stem.parent->bytes().size());
    out->set_blocks(stem.blocks);
    out->set_block_tokens(space->spec.block_tokens);
    out->set_requests_per_minute(stem.requests_per_minute);
    out->set_requests(stem.requests);
    out->set_last_asked_ago_ms(static_cast<uint64_t>(std::max<int64_t>(absl::ToInt64Milliseconds(stem.last_asked_ago), 0)));
    out->set_hit_fraction(stem.hit_fraction);
  }
  return reply;
}

v1::HitCurveReply Demand::HitCurve() {
  v1::HitCurveReply reply;
  reply.set_ssd_bytes(ssd_bytes_);
  const absl::Time now = MonotonicNow();
  double blocks = 0, held = 0, references = 0, expected = 0, working_set = 0;
  struct Group {
    SampledHitCurve::Curve curve;
    double slots = 0;
  };
  std::vector<Group> groups;
  for (const auto& memory : spaces_.memories()) reply.set_dram_bytes(reply.dram_bytes() + memory->group.dram_bytes);
  absl::Time since = now;
  {
    MutexLock lock(curves_mutex_);
    for (auto& [memory, sampler] : curves_) {
      const Group& group = groups.emplace_back(Group{sampler.Read(now), static_cast<double>(memory->pool->slots())});
      blocks += static_cast<double>(group.curve.blocks);
      held += static_cast<double>(group.curve.blocks_held);
      references += static_cast<double>(group.curve.references);
      expected += static_cast<double>(group.curve.references) / group.curve.sampled_fraction;
      working_set += group.curve.slots_used * static_cast<double>(memory->pool->geometry().slot_bytes);
      since = std::min(since, group.curve.since);
    }
  }
  if (blocks == 0) return reply;
  for (int i = 0; i <= static_cast<int>(std::ceil(kPointsPerOctave * std::log2(factor_max_ / kFactorMin))); ++i) {
    const double factor = kFactorMin * std::exp2(static_cast<double>(i) / kPointsPerOctave);
    double hits = 0;
    for (const Group& group : groups) hits += group.curve.Hits(factor * group.slots);
    v1::HitCurveReply::Point* const point = reply.add_points();
    point->set_bytes(static_cast<uint64_t>(factor * static_cast<double>(reply.dram_bytes())));
    point->set_hit_rate(hits / blocks);
  }
  reply.set_hit_rate_now(held / blocks);
  reply.set_sampled_fraction(expected > 0 ? references / expected : 1);
  reply.set_references(static_cast<uint64_t>(references));
  reply.set_since_ms(static_cast<uint64_t>(absl::ToInt64Milliseconds(now - since)));
  reply.set_working_set_bytes(static_cast<uint64_t>(working_set));
  return reply;
}

}  // namespace stem
