// Operators' levers on real clusters: a drain under a running replay, stems kept and let go, evicted from every tier, and quotas.
#include <atomic>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "services/ctl/levers.h"
#include "services/ctl/replay.h"
#include "services/ctl/workload.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"
#include "tests/support/scraped_metrics.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Publish;
using ::stem::testing::Soon;
using ::testing::HasSubstr;
using Lever = v1::NodeOperator::Stub;

constexpr uint64_t kBlockBytes = 16384;

class LeversTest : public ::testing::Test {
 protected:
  void Up(const InProcessCluster::Options& options) {
    cluster_ = std::make_unique<InProcessCluster>(options);
    auto secret = ReadSecret(cluster_->secret_file());
    ASSERT_TRUE(secret.ok()) << secret.status();
    secret_ = *std::move(secret);
  }
  template <typename Request, typename Reply>
  absl::StatusOr<Reply> Pull(size_t node, grpc::Status (Lever::*lever)(grpc::ClientContext*, const Request&, Reply*), const Request& request) {
    return Ask(cluster_->node(node).peer_address(), &*secret_, absl::Seconds(20), lever, request);
  }
  absl::StatusOr<v1::DrainReply> Drain(size_t node, bool resume = false) {
    v1::DrainRequest request;
    request.set_resume(resume);
    return Pull(node, &Lever::Drain, request);
  }
  absl::StatusOr<v1::KeepReply> Keep(size_t node, std::span<const BlockKey> keys, uint32_t seconds) {
    v1::KeepRequest request;
    request.set_keys(PackKeys(keys));
    request.set_seconds(seconds);
    return Pull(node, &Lever::Keep, request);
  }
  absl::StatusOr<v1::EvictReply> Evict(size_t node, std::span<const BlockKey> keys, const std::string& space = "") {
    v1::EvictRequest request;
    request.set_keys(PackKeys(keys));
    request.set_namespace_fingerprint(space);
    return Pull(node, &Lever::Evict, request);
  }
  int HealthOf(size_t node) {
    httplib::Client client("http://" + cluster_->node(node).http_address());
    const httplib::Result result = client.Get("/healthz");
    return result ? result->status : 0;
  }
  uint32_t Matched(CacheClient& client, const std::vector<BlockKey>& keys) {
    const absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
    EXPECT_TRUE(stem.ok()) << stem.status();
    return stem.ok() ? stem->matched_blocks() : 0;
  }
  StatusTargets Fleet() const { return {.directories = cluster_->directory_addresses(), .secret_file = cluster_->secret_file()}; }

  std::unique_ptr<InProcessCluster> cluster_;
  std::optional<ClusterSecret> secret_;
};

TEST_F(LeversTest, CallsWithoutTheClustersTokenAreRefused) {
  Up({.nodes = 1});
  for (const std::string& target : {cluster_->node(0).peer_address(), cluster_->socket(0)}) {
    EXPECT_EQ(Ask(target, nullptr, absl::Seconds(20), &Lever::Drain).status().code(), absl::StatusCode::kUnauthenticated) << target;
    EXPECT_EQ(Ask(target, nullptr, absl::Seconds(20), &Lever::Keep).status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(Ask(target, nullptr, absl::Seconds(20), &Lever::Evict).status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(Ask(target, nullptr, absl::Seconds(20), &Lever::SetQuota).status().code(), absl::StatusCode::kUnauthenticated);
  }
  EXPECT_EQ(HealthOf(0), 200);
}

TEST_F(LeversTest, DrainedNodeServesWhatIsOpenAndBeginsNothing) {
  Up({.nodes = 2});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 10);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 10u);
  cluster_->Settle();

  const absl::StatusOr<v1::DrainReply> drained = Drain(0);
  ASSERT_TRUE(drained.ok()) << drained.status();
  EXPECT_TRUE(drained->draining());
  EXPECT_EQ(drained->sessions(), 1u);
  EXPECT_EQ(HealthOf(0), 503);
  EXPECT_TRUE(cluster_->node(0).Status().draining());

  const auto late = CacheClient::Connect({.node = "unix://" + cluster_->socket(0), .space = TestSpec(kBlockBytes), .client_name = "late"},
                                         absl::Now() + absl::Seconds(2));
  EXPECT_THAT(late.status().ToString(), HasSubstr("draining"));
  const absl::StatusOr<Reservation> publish = client->Reserve(ChainOf(*client, 5, 5000), {}, Soon());
  ASSERT_TRUE(publish.ok()) << publish.status();
  EXPECT_TRUE(publish->wanted().empty());
  EXPECT_THAT(publish->reason(), HasSubstr("draining"));
  ReserveOptions on_from;
  on_from.parent = ChainOf(*client, 1, 9000)[0];  // not held here either, but that is not why
  EXPECT_THAT(client->Reserve(ChainOf(*client, 3, 7000), on_from, Soon())->reason(), HasSubstr("draining"));
  const testing::ScrapedMetrics scraped(cluster_->node(0).http_address());
  EXPECT_EQ(scraped.Sum("stemcache_node_refused_blocks_total", "reason=\"draining\""), 8);
  EXPECT_EQ(scraped.Sum("stemcache_node_refused_blocks_total", "reason=\"no_parent\""), 0);

  EXPECT_EQ(Matched(*client, keys), 10u) << "open sessions are served on";
  EXPECT_EQ(Matched(*cluster_->Connect(1, TestSpec(kBlockBytes)), keys), 10u) << "and so are other nodes, where nobody else holds it";

  const absl::StatusOr<v1::DrainReply> resumed = Drain(0, true);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_FALSE(resumed->draining());
  EXPECT_EQ(HealthOf(0), 200);
  EXPECT_EQ(Publish(*client, ChainOf(*client, 5, 5000), FillWithPosition), 5u);
}

TEST_F(LeversTest, DirectoriesSendReadersElsewhereWhileANodeDrains) {
  Up({.nodes = 3, .map_host_peers = false});
  const auto first = cluster_->Connect(0, TestSpec(kBlockBytes));
  const auto second = cluster_->Connect(1, TestSpec(kBlockBytes));
  ASSERT_TRUE(Drain(0).ok());
  const auto draining_is_known = [&] {
    const ClusterStatus status = QueryStatus(Fleet());
    return status.directories[0].reply.ok() && status.directories[0].reply->nodes(0).draining();
  };
  while (!draining_is_known()) absl::SleepFor(absl::Milliseconds(5));
  // On both nodes: taken in before node 0 drains no more publishes.
  ASSERT_TRUE(Drain(0, true).ok());
  std::vector<std::vector<BlockKey>> chains;
  for (uint32_t i = 0; i < 30; ++i) {
    chains.push_back(ChainOf(*first, 2, 1000 * (i + 1)));
    ASSERT_EQ(Publish(*first, chains.back(), FillWithPosition), 2u);
    ASSERT_EQ(Publish(*second, chains.back(), FillWithPosition), 2u);
  }
  cluster_->Settle();
  ASSERT_TRUE(Drain(0).ok());
  while (!draining_is_known()) absl::SleepFor(absl::Milliseconds(5));
  absl::SleepFor(absl::Seconds(1));  // a directory's view of who is trusted may be a heartbeat old
  const uint64_t before = cluster_->node(0).Status().leases();
  const auto reader = cluster_->Connect(2, TestSpec(kBlockBytes));
  for (const auto& chain : chains) EXPECT_EQ(Matched(*reader, chain), 2u);
  EXPECT_EQ(cluster_->node(0).Status().leases(), before) << "nobody asked the node that drains";
}

TEST_F(LeversTest, ReplayGoesOnWhileOneNodeDrainsAndResumes) {
  Up({.nodes = 3, .dram_bytes = 16 << 20});
  TempDirectory directory;
  const std::string trace = directory.path() + "/trace.jsonl";
  ASSERT_TRUE(WriteWorkload({.requests = 1500, .seed = 3}, trace).ok());
  ReplayOptions options{.trace = trace, .format = TraceFormat::kStem, .bytes_per_token = 64, .clients = 2, .deadline = absl::Seconds(20), .nodes = cluster_->sockets()};
  std::atomic<uint64_t> loaded{0};
  std::atomic<bool> ended{false};
  std::atomic<bool> drained{false};
  std::thread lever([&] {
    while (!ended && loaded < 100) absl::SleepFor(absl::Milliseconds(1));
    drained = Drain(1).ok();
    while (!ended && loaded < 400) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_TRUE(Drain(1, true).ok());
  });
  const absl::StatusOr<ReplayReport> report = RunReplay(options, {.loaded = [&](auto&&...) { ++loaded; }}, nullptr);
  ended = true;
  lever.join();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(drained);
  EXPECT_EQ(report->tally.mismatches, 0u);
  EXPECT_EQ(report->tally.requests, 1500u);
  EXPECT_GT(report->tally.publish.refused, 0u) << "while it drained";
  EXPECT_EQ(report->tally.misses[v1::MISS_CAUSE_NODE_LOST], 0u) << "nobody was cut off";
}

TEST_F(LeversTest, PinnedStemStaysUnderPressureUntilItsTimeEnds) {
  Up({.nodes = 1, .dram_bytes = 64 * SlotGeometry::For(kBlockBytes).slot_bytes});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 10);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 10u);
  const absl::StatusOr<v1::KeepReply> kept = Keep(0, std::span(keys).last(1), 3);  // by its last key alone
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->blocks(), 10u);
  EXPECT_GT(kept->bytes_kept(), 0u);
  EXPECT_EQ(cluster_->node(0).Status().arenas(0).bytes_kept(), kept->bytes_kept());
  for (uint32_t i = 0; i < 40; ++i) Publish(*client, ChainOf(*client, 8, 100'000 * (i + 1)), FillWithPosition);
  const uint32_t matched = Matched(*client, keys);
  if (cluster_->node(0).Status().arenas(0).bytes_kept() > 0) {  // else this machine was too slow to see it
    EXPECT_EQ(matched, 10u);
  }
  while (cluster_->node(0).Status().arenas(0).bytes_kept() > 0) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(cluster_->node(0).Status().pins(), 0u);
  EXPECT_EQ(Keep(0, ChainOf(*client, 1, 77), 60).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(LeversTest, MoreThanHalfOfThePoolIsNotKept) {
  Up({.nodes = 1, .dram_bytes = 16 * SlotGeometry::For(kBlockBytes).slot_bytes});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 9);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 9u);
  const absl::StatusOr<v1::KeepReply> kept = Keep(0, keys, 60);
  EXPECT_EQ(kept.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(kept.status().ToString(), HasSubstr("half of the pool"));
}

TEST_F(LeversTest, PinBringsASpilledStemBackToMemory) {
  Up({.nodes = 1, .dram_bytes = 32 * SlotGeometry::For(kBlockBytes).slot_bytes, .ssd_bytes = 64 << 20});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 8);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 8u);
  for (uint32_t i = 0; i < 12; ++i) Publish(*client, ChainOf(*client, 8, 100'000 * (i + 1)), FillWithPosition);
  ASSERT_GT(cluster_->node(0).Status().blocks_ssd(), 0u);
  const absl::StatusOr<v1::KeepReply> kept = Keep(0, keys, 600);
  ASSERT_TRUE(kept.ok()) << kept.status();
  EXPECT_EQ(kept->blocks(), 8u);
  const absl::StatusOr<Stem> stem = client->Acquire(keys, {}, Soon());
  ASSERT_TRUE(stem.ok());
  for (uint32_t block = 0; block < 8; ++block) EXPECT_EQ(stem->source(block), v1::SOURCE_LOCAL_DRAM);
  EXPECT_EQ(Keep(0, keys, 0)->blocks(), 8u) << "let go";
}

TEST_F(LeversTest, EvictedStemIsGoneFromMemoryDiskAndDirectoryAndAfterARestart) {
  Up({.nodes = 1, .dram_bytes = 32 * SlotGeometry::For(kBlockBytes).slot_bytes, .ssd_bytes = 64 << 20});
  auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 20);
  const std::vector<BlockKey> other = ChainOf(*client, 20, 500'000);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 20u);
  ASSERT_EQ(Publish(*client, other, FillWithPosition), 20u);
  ASSERT_TRUE(Keep(0, std::span(keys).first(4), 600).ok());
  const absl::StatusOr<v1::EvictReply> evicted = Evict(0, std::span(keys).first(3));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->blocks(), 18u) << "the third block and all that follows it";
  EXPECT_EQ(Matched(*client, keys), 2u);
  EXPECT_EQ(Matched(*client, other), 20u);
  EXPECT_TRUE(Eventually([&] { return cluster_->node(0).Status().pins() == 2; })) << "of the four that were kept, two stayed";
  client.reset();
  cluster_->StopNode(0);
  cluster_->StartNode(0);
  client = cluster_->Connect(0, TestSpec(kBlockBytes));
  EXPECT_LE(Matched(*client, keys), 2u) << "the disk does not bring it back";
}

TEST_F(LeversTest, EvictedNamespaceLeavesOthersAlone) {
  Up({.nodes = 1});
  const auto one = cluster_->Connect(0, TestSpec(kBlockBytes, "one"));
  const auto two = cluster_->Connect(0, TestSpec(kBlockBytes, "two"));
  ASSERT_EQ(Publish(*one, ChainOf(*one, 10), FillWithPosition), 10u);
  ASSERT_EQ(Publish(*two, ChainOf(*two, 10), FillWithPosition), 10u);
  const NamespaceFingerprint space = FingerprintOf(TestSpec(kBlockBytes, "one"), cluster_->node(0).memories()[0]->group.name);
  const absl::StatusOr<v1::EvictReply> evicted = Evict(0, {}, std::string(space.bytes()));
  ASSERT_TRUE(evicted.ok()) << evicted.status();
  EXPECT_EQ(evicted->blocks(), 10u);
  EXPECT_EQ(Matched(*one, ChainOf(*one, 10)), 0u);
  EXPECT_EQ(Matched(*two, ChainOf(*two, 10)), 10u);
}

TEST_F(LeversTest, QuotaLimitsAGroupNowAndFromThenOn) {
  Up({.nodes = 1, .dram_bytes = 64 * SlotGeometry::For(kBlockBytes).slot_bytes});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  for (uint32_t i = 0; i < 6; ++i) Publish(*client, ChainOf(*client, 10, 100'000 * (i + 1)), FillWithPosition);
  v1::SetQuotaRequest request;
  request.set_tenant(cluster_->node(0).memories()[0]->group.name);
  request.set_dram_bytes(16 * SlotGeometry::For(kBlockBytes).slot_bytes);
  const absl::StatusOr<v1::SetQuotaReply> set = Pull(0, &Lever::SetQuota, request);
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->dram_bytes(), request.dram_bytes());
  const auto used = [&] {
    const v1::NodeStatusReply status = cluster_->node(0).Status();
    return status.arenas(0).slots() - status.arenas(0).slots_free();
  };
  EXPECT_LE(used(), 16u);
  Publish(*client, ChainOf(*client, 12, 900'000), FillWithPosition);
  EXPECT_LE(used(), 16u);
  EXPECT_EQ(cluster_->node(0).Status().arenas(0).bytes_max(), request.dram_bytes());
  request.set_tenant("nobody");
  EXPECT_EQ(Pull(0, &Lever::SetQuota, request).status().code(), absl::StatusCode::kNotFound);
  request.set_tenant(cluster_->node(0).memories()[0]->group.name);
  request.set_dram_bytes(1ULL << 50);
  EXPECT_EQ(Pull(0, &Lever::SetQuota, request).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(LeversTest, SsdQuotasComeAndGoUnderLoadAndNothingFailsItsProof) {
  Up({.nodes = 1, .dram_bytes = 32 * SlotGeometry::For(kBlockBytes).slot_bytes, .ssd_bytes = 64 << 20});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> kept = ChainOf(*client, 8);
  ASSERT_EQ(Publish(*client, kept, FillWithPosition), 8u);
  ASSERT_TRUE(Keep(0, kept, 600).ok());
  v1::SetQuotaRequest request;
  request.set_tenant(cluster_->node(0).memories()[0]->group.name);
  request.set_dram_bytes(15 * SlotGeometry::For(kBlockBytes).slot_bytes);
  EXPECT_EQ(Pull(0, &Lever::SetQuota, request).status().code(), absl::StatusCode::kFailedPrecondition) << "half of it would be kept";
  request.set_dram_bytes(0);
  for (uint32_t round = 0; round < 12; ++round) {
    request.set_ssd_bytes((round % 2 == 0 ? 10 : 200) * SpillRecordBytes(kBlockBytes));
    ASSERT_TRUE(Pull(0, &Lever::SetQuota, request).ok());
    for (uint32_t chain = 0; chain < 6; ++chain) {
      const std::vector<BlockKey> keys = ChainOf(*client, 8, 100'000 * (chain + 1));
      Publish(*client, keys, FillWithPosition);
      Matched(*client, keys);
    }
  }
  request.set_ssd_bytes(10 * SpillRecordBytes(kBlockBytes));
  ASSERT_TRUE(Pull(0, &Lever::SetQuota, request).ok());
  EXPECT_TRUE(Eventually([&] { return cluster_->node(0).Status().arenas(0).ssd_bytes_used() <= request.ssd_bytes(); }));
  const v1::NodeStatusReply status = cluster_->node(0).Status();
  EXPECT_EQ(status.arenas(0).ssd_bytes_max(), request.ssd_bytes());
  EXPECT_EQ(status.arenas(0).bytes_max(), 32 * SlotGeometry::For(kBlockBytes).slot_bytes);
  EXPECT_EQ(status.integrity_failures(), 0u);
  EXPECT_EQ(Matched(*client, kept), 8u);
}

TEST_F(LeversTest, CommandsFindNodesByNameAndStemsInFiles) {
  Up({.nodes = 2});
  const auto all = NodesToAsk(Fleet());
  ASSERT_TRUE(all.ok()) << all.status();
  ASSERT_EQ(all->size(), 2u);
  const auto one = NodesToAsk(Fleet(), "node-1");
  ASSERT_TRUE(one.ok()) << one.status();
  EXPECT_EQ(one->at(0).address, cluster_->node(1).peer_address());
  EXPECT_THAT(NodesToAsk(Fleet(), "node-7").status().ToString(), HasSubstr("node-0, node-1"));
  EXPECT_EQ(NodesToAsk({}).status().code(), absl::StatusCode::kInvalidArgument);

  const std::string hex = "00112233445566778899aabbccddeeff";
  EXPECT_EQ(absl::BytesToHexString(*ReadStem(hex)), hex);
  TempDirectory directory;
  std::ofstream(directory.path() + "/keys") << hex << "\n" << hex << "\n";
  EXPECT_EQ(ReadStem(directory.path() + "/keys")->size(), 32u);
  std::ofstream(directory.path() + "/bad") << hex << "\nfoo\n";
  EXPECT_THAT(ReadStem(directory.path() + "/bad").status().ToString(), HasSubstr("'foo'"));
  EXPECT_THAT(ReadStem("nowhere").status().ToString(), HasSubstr("neither a key"));
}

TEST_F(LeversTest, ADrainWhileTheNodeStartsCounts) {
  Up({.nodes = 1});
  for (int round = 0; round < 5; ++round) {
    cluster_->StopNode(0);
    std::thread operators([&] {
      while (!Ask(cluster_->socket(0), &*secret_, absl::Seconds(20), &Lever::Drain).ok()) absl::SleepFor(absl::Milliseconds(1));
    });
    cluster_->StartNode(0);
    operators.join();
    EXPECT_TRUE(cluster_->node(0).Status().draining());
    EXPECT_EQ(HealthOf(0), 503);
  }
}

}  // namespace
}  // namespace stem
