#include "services/runtime/tracing.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "absl/strings/escaping.h"
#include "services/runtime/otlp.h"
#include "tests/support/log_lines.h"
#include "tests/support/span_receiver.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class TracingTest : public testing::Test {
 protected:
  std::unique_ptr<Tracer> Start(const std::string& otlp, double sample = 1) {
    return std::make_unique<Tracer>(TracingOptions{.otlp = otlp, .sample = sample}, "stem-node", "node-1", log_);
  }
  static std::vector<Span> Spans(Tracer& tracer, size_t count) {
    std::vector<Span> spans(count);
    for (Span& span : spans) {
      span = {.name = "read", .self = tracer.Begin({}), .begin = absl::Now() - absl::Milliseconds(1), .end = absl::Now()};
      span.attributes = {{"stemcache.bytes", int64_t{65536}}, {"stemcache.peer", std::string("node-2")}, {"stemcache.exact", true}};
    }
    return spans;
  }
  static double Value(const Tracer& tracer, const std::string& name, const MetricLabels& labels = {}) {
    MetricsPage page;
    tracer.Fill(page);
    return page.Value(name, labels);
  }
  static double Dropped(const Tracer& tracer, const std::string& reason) {
    return Value(tracer, "stemcache_trace_spans_dropped_total", {{"reason", reason}});
  }

  LogLines lines_;
  Logger log_{{.process = "test", .out = &lines_.stream()}};
};

TEST_F(TracingTest, ASpanArrivesAsItWas) {
  SpanReceiver receiver;
  const auto tracer = Start(receiver.url());
  std::vector<Span> spans = Spans(*tracer, 1);
  spans[0].parent = 0x1122334455667788;
  spans[0].kind = SpanKind::kClient;
  spans[0].error = "gone";
  const Span sent = spans[0];
  tracer->Keep(std::move(spans));
  ASSERT_TRUE(receiver.WaitFor([](const auto& got) { return got.size() == 1; }));
  const ReceivedSpan got = receiver.spans()[0];
  EXPECT_EQ(got.service, "stem-node");
  EXPECT_EQ(got.instance, "node-1");
  EXPECT_EQ(got.span.name(), "read");
  EXPECT_EQ(absl::BytesToHexString(got.span.trace_id()), sent.self.TraceId());
  EXPECT_EQ(got.span.parent_span_id(), std::string("\x11\x22\x33\x44\x55\x66\x77\x88"));
  EXPECT_EQ(got.span.span_id().size(), 8U);
  EXPECT_EQ(got.span.kind(), otel::Span::SPAN_KIND_CLIENT);
  EXPECT_EQ(got.span.start_time_unix_nano(), static_cast<uint64_t>(absl::ToUnixNanos(sent.begin)));
  EXPECT_EQ(got.span.end_time_unix_nano(), static_cast<uint64_t>(absl::ToUnixNanos(sent.end)));
  EXPECT_EQ(got.Attribute("stemcache.bytes"), "65536");
  EXPECT_EQ(got.Attribute("stemcache.peer"), "node-2");
  EXPECT_EQ(got.Attribute("stemcache.exact"), "1");
  EXPECT_EQ(got.span.status().code(), otel::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(got.span.status().message(), "gone");
}

TEST_F(TracingTest, WhatIsQueuedIsSentAtTheEnd) {
  SpanReceiver receiver;
  auto tracer = Start(receiver.url());
  tracer->Keep(Spans(*tracer, 1000));
  tracer.reset();
  EXPECT_EQ(receiver.spans().size(), 1000U);
}

TEST_F(TracingTest, ASlowCollectorCostsSpansAndNobodysTime) {
  SpanReceiver receiver;
  receiver.set_delay(absl::Minutes(5));
  const auto tracer = Start(receiver.url());
  constexpr size_t kSpans = 2 * Tracer::kQueuedMax;
  for (size_t i = 0; i < kSpans / 16; ++i) tracer->Keep(Spans(*tracer, 16));
  EXPECT_TRUE(receiver.bodies().empty()) << "a hand-over waited for the collector";
  EXPECT_GE(Dropped(*tracer, "queue_full"), static_cast<double>(kSpans - Tracer::kQueuedMax - 1024));
  EXPECT_LE(Value(*tracer, "stemcache_trace_queued_spans"), static_cast<double>(Tracer::kQueuedMax));
}

TEST_F(TracingTest, ACollectorThatComesBackGetsWhatWasKept) {
  SpanReceiver receiver;
  receiver.set_status(503);
  const auto tracer = Start(receiver.url());
  tracer->Keep(Spans(*tracer, 3));
  while (Value(*tracer, "stemcache_trace_send_failures_total") < 1) absl::SleepFor(absl::Milliseconds(5));
  receiver.set_status(200);
  EXPECT_TRUE(receiver.WaitFor([](const auto& got) { return got.size() == 3; }));
  EXPECT_THAT(lines_.text(), HasSubstr("traces_not_sent"));
}

TEST_F(TracingTest, WhatTheCollectorRefusesIsDroppedAndCounted) {
  SpanReceiver receiver;
  receiver.set_status(400);
  const auto tracer = Start(receiver.url());
  tracer->Keep(Spans(*tracer, 3));
  while (Dropped(*tracer, "refused") < 3) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(Value(*tracer, "stemcache_trace_spans_sent_total"), 0);
}

TEST_F(TracingTest, ADeadCollectorDoesNotHoldTheEndForLong) {
  auto tracer = Start("http://127.0.0.1:1");
  tracer->Keep(Spans(*tracer, 3));
  tracer.reset();
}

TEST_F(TracingTest, TheShareThatIsSampledIsWhatWasAsked) {
  SpanReceiver receiver;
  for (const double sample : {0.0, 0.01, 0.25, 1.0}) {
    const auto tracer = Start(receiver.url(), sample);
    constexpr int kTraces = 100'000;
    int sampled = 0;
    for (int i = 0; i < kTraces; ++i) sampled += tracer->Begin({}).sampled ? 1 : 0;
    // Five standard deviations.
    EXPECT_NEAR(sampled, kTraces * sample, 5 * std::sqrt(kTraces * sample * (1 - sample))) << sample;
  }
}

TEST_F(TracingTest, TheCallersWordOnSamplingIsHeeded) {
  SpanReceiver receiver;
  const TraceContext asked{.trace_high = 1, .trace_low = 2, .span = 3, .sampled = true};
  const auto none = Start(receiver.url(), 0);
  const TraceContext kept = none->Begin(asked);
  EXPECT_TRUE(kept.sampled);
  EXPECT_EQ(kept.TraceId(), asked.TraceId());
  EXPECT_NE(kept.span, asked.span);
  const auto all = Start(receiver.url(), 1);
  EXPECT_FALSE(all->Begin({.trace_high = 1, .trace_low = 2, .span = 3, .sampled = false}).sampled);
}

TEST_F(TracingTest, GarbageIsCountedAndBeginsAnew) {
  const auto tracer = Start("");
  EXPECT_FALSE(tracer->Read("").valid());
  EXPECT_EQ(Value(*tracer, "stemcache_trace_contexts_ignored_total"), 0);
  EXPECT_FALSE(tracer->Read("00-garbage").valid());
  EXPECT_EQ(Value(*tracer, "stemcache_trace_contexts_ignored_total"), 1);
  EXPECT_TRUE(tracer->Read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").valid());
}

TEST_F(TracingTest, WithoutACollectorContextsArePassedOnAndNoneBegins) {
  const auto tracer = Start("");
  const TraceContext asked{.trace_high = 1, .trace_low = 2, .span = 3, .sampled = true};
  EXPECT_EQ(tracer->Begin(asked), asked);
  EXPECT_FALSE(tracer->Begin({}).valid());
  tracer->Keep(Spans(*tracer, 3));
  EXPECT_EQ(Value(*tracer, "stemcache_trace_queued_spans"), 0);
}

TEST_F(TracingTest, ParkedSpansAreSentWhenTheirTraceIsKept) {
  SpanReceiver receiver;
  const auto tracer = Start(receiver.url(), 0);
  std::vector<Span> wanted = Spans(*tracer, 1), other = Spans(*tracer, 1);
  const TraceContext trace = wanted[0].self;
  tracer->Park(std::move(wanted));
  tracer->Park(std::move(other));
  tracer->KeepParked(trace);
  ASSERT_TRUE(receiver.WaitFor([](const auto& got) { return !got.empty(); }));
  EXPECT_EQ(absl::BytesToHexString(receiver.spans()[0].span.trace_id()), trace.TraceId());
  for (size_t i = 0; i < Tracer::kParkedMax + 10; ++i) tracer->Park(Spans(*tracer, 1));
  EXPECT_EQ(receiver.spans().size(), 1U);
}

TEST(OtlpUrlTest, TakesWhatItCanReach) {
  const absl::StatusOr<OtlpUrl> plain = ParseOtlpUrl("http://127.0.0.1:4318");
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ(plain->address.ToString(), "127.0.0.1:4318");
  EXPECT_EQ(plain->path, "/v1/traces");
  EXPECT_EQ(ParseOtlpUrl("http://[::1]:4318/")->path, "/v1/traces");
  EXPECT_EQ(ParseOtlpUrl("http://collector:80/otlp/v1/traces")->path, "/otlp/v1/traces");
  for (const char* bad : {"", "collector:4318", "https://collector:4318", "http://", "http://collector", "http://collector:0", "http://:x/"}) {
    EXPECT_THAT(ParseOtlpUrl(bad).status().message(), HasSubstr("http://host:port")) << bad;
  }
}

TEST(TracingOptionsTest, SaysWhichFlagIsWrong) {
  EXPECT_TRUE(CheckTracingOptions({}).ok());
  EXPECT_THAT(CheckTracingOptions({.otlp = "https://x:1"}).message(), HasSubstr("--otlp"));
  EXPECT_THAT(CheckTracingOptions({.sample = 1.5}).message(), HasSubstr("--trace-sample"));
}

}  // namespace
}  // namespace stem
