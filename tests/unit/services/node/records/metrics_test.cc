#include "services/node/records/metrics.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

class NodeMetricsTest : public ::testing::Test {
 protected:
  NodeMetricsTest() : metrics_("n1") {
    for (const char* group : {"a", "b"}) memories_.push_back({.group = {.name = group}});
    for (uint32_t i = 0; i < 100; ++i) {
      Space& space = spaces_.emplace_back();
      space.spec = {.model = absl::StrCat("model-", i), .block_tokens = 16, .parts = {{.id = 0}, {.id = 1}, {.id = 2}}};
      space.fingerprint = FingerprintOf(space.spec, "a");
      space.memory = &memories_[i % 2];
      space.number = i;
    }
  }

  void Count(const Space& space, uint32_t hit, uint32_t cold, uint64_t parts = 3, absl::Duration block_compute = absl::ZeroDuration()) {
    AcquireOutcome outcome(hit + cold);
    for (uint32_t block = 0; block < hit; ++block) outcome.Hit(block, v1::SOURCE_LOCAL_DRAM);
    outcome.MissRest(v1::MISS_CAUSE_COLD);
    metrics_.CountAcquire({.space = space, .outcome = outcome, .parts_asked = parts, .block_compute = block_compute});
  }
  MetricsPage Page() const {
    MetricsPage page;
    metrics_.Fill(page);
    return page;
  }
  std::string LabelOf(const Space& space) { return absl::StrCat(space.spec.model, "@", space.fingerprint.ToHex().substr(0, 8)); }

  NodeMetrics metrics_;
  std::deque<GroupMemory> memories_;
  std::deque<Space> spaces_;
};

TEST_F(NodeMetricsTest, APartIsItsShareAndNothingIsLostToRounding) {
  for (int rank = 0; rank < 3; ++rank) Count(spaces_[0], 4, 3, 1, absl::Milliseconds(3));
  const v1::NodeCounters counters = metrics_.Counters();
  EXPECT_EQ(counters.requests(), 3u);
  EXPECT_EQ(counters.tokens_asked(), 3u * (7 * 16 / 3));
  EXPECT_EQ(counters.tokens_hit(v1::SOURCE_LOCAL_DRAM) + counters.tokens_missed(v1::MISS_CAUSE_COLD), counters.tokens_asked());
  EXPECT_EQ(counters.prefill_saved_us(), 12'000u) << "three ranks together save four blocks";
}

TEST_F(NodeMetricsTest, NamespacesBeyondTheLimitAreCountedTogetherByTenant) {
  for (const Space& space : spaces_) Count(space, 1, 0);
  const MetricsPage page = Page();
  const std::string name = "stemcache_node_asked_tokens_total";
  EXPECT_EQ(page.Value(name, {{"namespace", LabelOf(spaces_[0])}, {"tenant", "a"}}), 16);
  EXPECT_EQ(page.Value(name, {{"namespace", LabelOf(spaces_[99])}, {"tenant", "b"}}), 0);
  EXPECT_EQ(page.Value(name, {{"namespace", "other"}, {"tenant", "a"}}), 16 * 18);
  EXPECT_EQ(page.Value(name, {{"namespace", "other"}, {"tenant", "b"}}), 16 * 18);
  const v1::NodeCounters counters = metrics_.Counters();
  ASSERT_EQ(counters.tenants_size(), 2);
  EXPECT_EQ(counters.tenants(0).tokens_asked(), 50u * 16);
}

TEST_F(NodeMetricsTest, EncodedSpillsAddUpByNamespaceWithTheirError) {
  EXPECT_TRUE(metrics_.Encoded().empty()) << "only namespaces that ask for it";
  spaces_[0].spec.spill_encoding = SpillEncoding::kInt8;
  const EncodedSpills batch{.payloads = 3,
                            .payload_bytes = 300,
                            .record_bytes = 160,
                            .payloads_kept = 1,
                            .samples = 1,
                            .error = {.error_squares = 1, .value_squares = 400, .largest = 0.125}};
  metrics_.CountEncoded(spaces_[0], batch);
  metrics_.CountEncoded(spaces_[0], {.payloads = 1, .payload_bytes = 100, .record_bytes = 50, .samples = 1, .error = {.error_squares = 3, .largest = 0.25}});
  const MetricsPage page = Page();
  const MetricLabels whose = {{"namespace", LabelOf(spaces_[0])}, {"tenant", "a"}};
  EXPECT_EQ(page.Value("stemcache_node_spill_encoded_blocks_total", whose), 4);
  EXPECT_EQ(page.Value("stemcache_node_spill_kept_blocks_total", whose), 1);
  EXPECT_EQ(page.Value("stemcache_node_spill_saved_bytes_total", whose), 190);
  EXPECT_EQ(page.Value("stemcache_node_spill_relative_error", whose), 0.1);
  EXPECT_EQ(page.Value("stemcache_node_spill_largest_error", whose), 0.25);
  ASSERT_EQ(metrics_.Encoded().size(), 1u);
  EXPECT_EQ(metrics_.Encoded()[0].encoding(), v1::SPILL_ENCODING_INT8);
  EXPECT_EQ(metrics_.Encoded()[0].payloads_sampled(), 2u);
}

TEST_F(NodeMetricsTest, EncodedSpillsBeyondTheLimitSayNoOneEncoding) {
  for (Space& space : spaces_) {
    space.spec.spill_encoding = space.number % 4 < 2 ? SpillEncoding::kInt8 : SpillEncoding::kFp8E4m3;
    metrics_.CountEncoded(space, {.payloads = 1});
  }
  for (const v1::NodeStatusReply::EncodedSpill& each : metrics_.Encoded()) {
    EXPECT_EQ(each.encoding() == v1::SPILL_ENCODING_EXACT, each.namespace_() == "other") << each.ShortDebugString();
    EXPECT_EQ(each.payloads(), each.namespace_() == "other" ? 18u : 1u);
  }
}

TEST_F(NodeMetricsTest, TheFunnelNarrowsFromAskedToLoaded) {
  AcquireOutcome outcome(10);
  outcome.Hit(0, v1::SOURCE_REMOTE_SSD);
  outcome.Miss(1, 2, v1::MISS_CAUSE_DEADLINE);  // held
  outcome.Miss(3, 3, v1::MISS_CAUSE_EVICTED);   // was held
  outcome.MissRest(v1::MISS_CAUSE_UNKNOWN);
  metrics_.CountAcquire({.space = spaces_[0], .outcome = outcome, .parts_asked = 3, .block_compute = absl::ZeroDuration()});
  metrics_.CountLoaded(spaces_[0], 3);
  const MetricsPage page = Page();
  const auto stage = [&](const char* name) {
    return page.Value("stemcache_node_funnel_tokens_total", {{"namespace", LabelOf(spaces_[0])}, {"tenant", "a"}, {"stage", name}});
  };
  EXPECT_EQ(stage("asked"), 160);
  EXPECT_EQ(stage("reusable"), 96);
  EXPECT_EQ(stage("held"), 48);
  EXPECT_EQ(stage("acquired"), 16);
  EXPECT_EQ(stage("loaded"), 16);
  EXPECT_EQ(metrics_.Counters().deadline_misses(), 1u);
}

TEST_F(NodeMetricsTest, IntegrityFailuresAreShownBeforeThereAreAny) {
  EXPECT_THAT(Page().ToText(), ::testing::HasSubstr("stemcache_node_integrity_failures_total{tier=\"ssd\",holder=\"n1\"} 0"));
  metrics_.CountPeerRead("n2", 100, absl::Seconds(1));
  EXPECT_THAT(Page().ToText(), ::testing::HasSubstr("stemcache_node_integrity_failures_total{tier=\"remote\",holder=\"n2\"} 0"));
  metrics_.CountIntegrityFailure("remote", "n2");
  EXPECT_EQ(Page().Value("stemcache_node_integrity_failures_total", {{"tier", "remote"}, {"holder", "n2"}}), 1);
}

TEST_F(NodeMetricsTest, AThousandPeersHaveSixtyFiveLabels) {
  for (int i = 0; i < 1000; ++i) metrics_.CountPeerRead(absl::StrCat("peer-", i), 10, absl::Milliseconds(1));
  for (const prometheus::MetricFamily& family : Page().Families()) {
    if (family.name != "stemcache_node_peer_read_bytes_total") continue;
    EXPECT_EQ(family.metric.size(), NodeMetrics::kLabelsMax + 1);
  }
  EXPECT_EQ(Page().Value("stemcache_node_peer_read_bytes_total", {{"peer", "other"}}), (1000 - NodeMetrics::kLabelsMax) * 10);
}

TEST_F(NodeMetricsTest, ThreadsLoseNothing) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (size_t n = 0; n < 2000; ++n) Count(spaces_[n % spaces_.size()], 2, 1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(metrics_.Counters().tokens_asked(), 4u * 2000 * 3 * 16);
  EXPECT_EQ(metrics_.Counters().requests(), 8000u);
}

}  // namespace
}  // namespace stem
