#include "services/node/records/request_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <sstream>

#include "absl/time/clock.h"

namespace stem {
namespace {

class RequestTraceTest : public testing::Test {
 protected:
  std::unique_ptr<RequestTrace> Begin(RequestKind kind) {
    return std::make_unique<RequestTrace>(sinks_, RequestFacts{.kind = kind, .space = &space_, .blocks_asked = 8});
  }
  // How often `stage` was observed.
  uint64_t Observed(const std::string& stage) {
    MetricsPage page;
    metrics_.Fill(page);
    for (const prometheus::MetricFamily& family : page.Families()) {
      if (family.name != "stemcache_node_stage_seconds") continue;
      for (const prometheus::ClientMetric& metric : family.metric) {
        const auto is = [&](const auto& label) { return label.name == "stage" && label.value == stage; };
        if (std::any_of(metric.label.begin(), metric.label.end(), is)) return metric.histogram.sample_count;
      }
    }
    return UINT64_MAX;
  }

  NodeMetrics metrics_{"node-1"};
  std::ostringstream lines_;
  Logger log_{{.process = "test", .out = &lines_}};
  Tracer tracer_{{}, "stem-node", "node-1", log_};
  std::vector<RequestFacts> logged_;
  const RequestSinks sinks_{.metrics = metrics_, .tracer = tracer_, .log = [this](const RequestFacts& facts) { logged_.push_back(facts); }};
  const Space space_;
};

TEST_F(RequestTraceTest, AStepInPiecesIsAsLongAsAllAndAsBusyAsEach) {
  const absl::Time start = absl::Now();
  const auto at = [&](int millis) { return start + absl::Milliseconds(millis); };
  const auto trace = Begin(RequestKind::kAcquire);
  const size_t read = trace->Open(Stage::kRead, start);
  trace->AddPiece(read, at(1), at(3));
  const size_t prove = trace->Open(Stage::kProve, at(3));
  trace->AddPiece(prove, at(3), at(4));
  trace->AddPiece(read, at(4), at(9));
  trace->AddPiece(prove, at(9), at(10));
  trace->End();
  ASSERT_EQ(logged_.size(), 1U);
  const std::vector<TraceStep>& steps = logged_[0].steps;
  ASSERT_EQ(steps.size(), 2U);
  EXPECT_EQ(steps[0].end - steps[0].begin, absl::Milliseconds(9));
  EXPECT_EQ(steps[0].busy, absl::Milliseconds(7));
  EXPECT_EQ(steps[1].end - steps[1].begin, absl::Milliseconds(7));
  EXPECT_EQ(steps[1].busy, absl::Milliseconds(2));
  EXPECT_EQ(Observed("read"), 1U);
  EXPECT_EQ(Observed("prove"), 1U);
  EXPECT_EQ(Observed("match"), 0U);
}

TEST_F(RequestTraceTest, IsToldOnceEvenWhenNobodyEndsIt) {
  {
    const auto trace = Begin(RequestKind::kPublish);
    trace->End();
    trace->End();
  }
  EXPECT_EQ(logged_.size(), 1U);
  Begin(RequestKind::kPublish).reset();
  EXPECT_EQ(logged_.size(), 2U);
}

TEST_F(RequestTraceTest, LeasesAreNotLogged) {
  Begin(RequestKind::kLease).reset();
  EXPECT_TRUE(logged_.empty());
}

TEST_F(RequestTraceTest, OnlyAnAnsweredAcquireCountsAsOne) {
  Begin(RequestKind::kAcquire).reset();
  EXPECT_EQ(Observed("acquire"), 0U);
  const auto trace = Begin(RequestKind::kAcquire);
  trace->facts().answered = absl::Now();
  trace->End();
  EXPECT_EQ(Observed("acquire"), 1U);
}

TEST_F(RequestTraceTest, StepsAreBounded) {
  const auto trace = Begin(RequestKind::kAcquire);
  for (int i = 0; i < 1000; ++i) {
    RequestTrace::Timed lease(*trace, Stage::kLease);
    lease->blocks += 1;
    RequestTrace::Timed read(*trace, Stage::kRead);
  }
  { RequestTrace::Timed prove(*trace, Stage::kProve); }  // the first of its stage has a place
  trace->End();
  const RequestFacts& facts = logged_.at(0);
  EXPECT_LE(facts.steps.size(), RequestTrace::kStepsMax + 1);
  EXPECT_EQ(facts.steps.size() + facts.steps_merged, 2001U);
  uint32_t blocks = 0;
  for (const TraceStep& step : facts.steps) blocks += step.blocks;
  EXPECT_EQ(blocks, 1000U) << "what is counted in with others is not lost";
}

TEST_F(RequestTraceTest, ContinuesAStepOfTheSameParentOnly) {
  const auto trace = Begin(RequestKind::kLease);
  const absl::Time now = absl::Now();
  const size_t promote = trace->Continue(Stage::kPromote, now);
  const size_t read = trace->Continue(Stage::kRead, now, promote);
  EXPECT_EQ(trace->Continue(Stage::kPromote, now), promote);
  EXPECT_EQ(trace->Continue(Stage::kRead, now, promote), read);
  EXPECT_NE(trace->Continue(Stage::kRead, now), read);
}

}  // namespace
}  // namespace stem
