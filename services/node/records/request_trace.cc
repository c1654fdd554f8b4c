#include "services/node/records/request_trace.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "proto/validate.h"
#include "services/node/records/request_spans.h"

namespace stem {

const char* RequestKindName(RequestKind kind) {
  switch (kind) {
    case RequestKind::kAcquire: return "acquire";
    case RequestKind::kPublish: return "publish";
    case RequestKind::kLease: return "lease";
  }
  return "";
}

absl::Duration TimeAtNode(const RequestFacts& facts) {
  if (facts.kind != RequestKind::kPublish) return facts.ended - facts.began;
  absl::Duration busy;
  for (const TraceStep& step : facts.steps) busy += step.busy;
  return busy;
}

RequestTrace::RequestTrace(const RequestSinks& sinks, RequestFacts facts) : sinks_(sinks), facts_(std::move(facts)) {
  facts_.began = absl::Now();
  facts_.answered = facts_.ended = absl::InfinitePast();
  facts_.caller_span = facts_.trace.span;
  facts_.trace = sinks_.tracer.Begin(facts_.trace);
}

RequestTrace::~RequestTrace() { End(); }

size_t RequestTrace::Open(Stage stage, absl::Time begin, size_t parent) {
  std::vector<TraceStep>& steps = facts_.steps;
  if (steps.size() >= kStepsMax) {
    const auto like = std::find_if(steps.rbegin(), steps.rend(), [&](const TraceStep& step) { return step.stage == stage; });
    if (like != steps.rend()) {
      ++facts_.steps_merged;
      return static_cast<size_t>(steps.rend() - like) - 1;
    }
  }
  steps.push_back({.stage = stage, .parent = parent, .begin = begin, .end = begin});
  return steps.size() - 1;
}

size_t RequestTrace::Continue(Stage stage, absl::Time begin, size_t parent) {
  const std::vector<TraceStep>& steps = facts_.steps;
  const auto like = std::find_if(steps.rbegin(), steps.rend(),
                                 [&](const TraceStep& step) { return step.stage == stage && step.parent == parent; });
  return like == steps.rend() ? Open(stage, begin, parent) : static_cast<size_t>(steps.rend() - like) - 1;
}

void RequestTrace::AddPiece(size_t step, absl::Time begin, absl::Time end) {
  at(step).end = end;
  at(step).busy += end - begin;
}

void RequestTrace::Fail(size_t step, const absl::Status& why, v1::MissCause cause) {
  at(step).error = std::string(why.message());
  at(step).cause = cause;
}

RequestTrace::Timed::Timed(RequestTrace& trace, Stage stage, size_t parent)
    : trace_(trace), begin_(absl::Now()), step_(trace.Open(stage, begin_, parent)) {}

RequestTrace::Timed::~Timed() { trace_.AddPiece(step_, begin_, absl::Now()); }

void RequestTrace::End() {
  if (std::exchange(ended_, true)) return;
  if (facts_.ended == absl::InfinitePast()) facts_.ended = absl::Now();
  for (const TraceStep& step : facts_.steps) sinks_.metrics.Observe(step.stage, step.busy);
  if (facts_.answered != absl::InfinitePast()) sinks_.metrics.Observe(Stage::kAcquire, facts_.answered - facts_.began);
  if (sinks_.tracer.on()) Export();
  if (sinks_.log && facts_.kind != RequestKind::kLease) sinks_.log(std::move(facts_));
}

TraceContext RequestTrace::ContextOf(size_t step) const {
  return sinks_.tracer.on() ? StepContext(facts_.trace, step) : facts_.trace;
}

void RequestTrace::Export() {
  const bool failed = !facts_.error.empty() || std::any_of(facts_.steps.begin(), facts_.steps.end(),
                                                           [](const TraceStep& step) { return !step.error.empty(); });
  const bool late = !facts_.trace.sampled && (failed || sinks_.tracer.IsSlow(TimeAtNode(facts_)));
  if (late) kept_late_ = facts_.trace;
  if (facts_.trace.sampled || late) return sinks_.tracer.Keep(SpansOf(facts_));
  // Another node's request may yet turn out to be worth it.
  if (facts_.kind == RequestKind::kLease && facts_.caller_span != 0) sinks_.tracer.Park(SpansOf(facts_));
}

}  // namespace stem
