#include "services/node/records/request_spans.h"

#include <string>
#include <utility>

#include "proto/miss_cause.h"

namespace stem {
namespace {

constexpr std::array<const char*, 5> kBlocksFrom = {"", "stemcache.blocks.local_dram", "stemcache.blocks.remote_dram",
                                                    "stemcache.blocks.local_ssd", "stemcache.blocks.remote_ssd"};

// Zeros and empty texts say nothing and are left out.
void Add(Span& span, const char* key, uint64_t number) {
  if (number > 0) span.attributes.emplace_back(key, static_cast<int64_t>(number));
}
void Add(Span& span, const char* key, std::string text) {
  if (!text.empty()) span.attributes.emplace_back(key, std::move(text));
}
void AddCause(Span& span, v1::MissCause cause) {
  if (cause != v1::MISS_CAUSE_UNSPECIFIED) span.attributes.emplace_back("stemcache.cause", CauseName(cause));
}

Span OfRequest(const RequestFacts& facts) {
  Span span{.name = RequestKindName(facts.kind),
            .self = facts.trace,
            .parent = facts.caller_span,
            .kind = SpanKind::kServer,
            .begin = facts.began,
            .end = facts.ended,
            .attributes = {},
            .error = facts.error};
  Add(span, "stemcache.keys", facts.blocks_asked);
  Add(span, "stemcache.blocks", facts.blocks_matched);
  Add(span, "stemcache.model", facts.space->spec.model);
  Add(span, "stemcache.tenant", facts.space->memory != nullptr ? facts.space->memory->group.name : "");
  Add(span, "stemcache.request", facts.request);
  Add(span, "stemcache.peer", facts.peer);
  uint64_t bytes = 0;
  for (size_t source = 1; source < facts.hits.size(); ++source) {
    Add(span, kBlocksFrom.at(source), facts.hits.at(source).blocks);
    bytes += facts.hits.at(source).bytes;
  }
  Add(span, "stemcache.bytes", bytes);
  if (facts.answered > facts.began) {
    Add(span, "stemcache.answered_us", static_cast<uint64_t>(absl::ToInt64Microseconds(facts.answered - facts.began)));
  }
  Add(span, "stemcache.steps_merged", facts.steps_merged);
  if (!facts.misses.empty()) AddCause(span, facts.misses.front().cause());
  return span;
}

Span OfStep(const RequestFacts& facts, size_t index) {
  const TraceStep& step = facts.steps[index];
  const bool asks = step.stage == Stage::kMatch || step.stage == Stage::kLease;
  Span span{.name = StageName(step.stage),
            .self = StepContext(facts.trace, index),
            .parent = step.parent == TraceStep::kNoParent ? facts.trace.span : StepContext(facts.trace, step.parent).span,
            .kind = asks ? SpanKind::kClient : SpanKind::kInternal,
            .begin = step.begin,
            .end = step.end,
            .attributes = {},
            .error = step.error};
  Add(span, "stemcache.keys", step.keys);
  Add(span, "stemcache.blocks", step.blocks);
  Add(span, "stemcache.bytes", step.bytes);
  Add(span, "stemcache.tier", TierName(step.tier));
  Add(span, "stemcache.peer", step.peer);
  AddCause(span, step.cause);
  if (step.busy < step.end - step.begin) Add(span, "stemcache.busy_us", static_cast<uint64_t>(absl::ToInt64Microseconds(step.busy)));
  return span;
}

}  // namespace

const char* TierName(v1::Tier tier) { return tier == v1::TIER_DRAM ? "dram" : tier == v1::TIER_SSD ? "ssd" : ""; }

TraceContext StepContext(const TraceContext& request, size_t step) { return Tracer::Child(request, step); }

std::vector<Span> SpansOf(const RequestFacts& facts) {
  std::vector<Span> spans;
  spans.reserve(1 + facts.steps.size());
  spans.push_back(OfRequest(facts));
  for (size_t i = 0; i < facts.steps.size(); ++i) spans.push_back(OfStep(facts, i));
  return spans;
}

}  // namespace stem
