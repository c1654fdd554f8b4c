// Each token that is asked for is counted once: as hit, by where it came from, or as missed, by one cause, whatever the requests, deadlines,
// evictions, lost nodes and clients that leave early. Real nodes and clients; what the nodes' metrics say is compared with what the clients
// were told. Replay one seed with --gtest_random_seed=SEED.
#include <array>
#include <map>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "proto/miss_cause.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"
#include "tests/support/scraped_metrics.h"

namespace stem {
namespace {

using ::stem::testing::ScrapedMetrics;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 16384;
constexpr uint32_t kBlockTokens = 16;
constexpr std::array<const char*, 5> kSources = {"", "local_dram", "remote_dram", "local_ssd", "remote_ssd"};

NamespaceSpec TwoParts() {
  NamespaceSpec spec = TestSpec(kBlockBytes);
  spec.parts = {{.id = 0, .layer_first = 0, .layer_count = 1, .block_bytes = kBlockBytes},
                {.id = 1, .layer_first = 1, .layer_count = 1, .block_bytes = kBlockBytes}};
  return spec;
}

// What clients of one node asked, and were told.
struct Told {
  uint64_t acquires = 0;
  uint64_t blocks = 0;
  uint64_t tokens = 0;
  uint64_t tokens_loaded = 0;
  std::array<uint64_t, 5> hit = {};  // blocks, by source
  std::map<std::string, uint64_t> missed;
};

class MissCausesPropertyTest : public ::testing::TestWithParam<bool> {
 protected:
  MissCausesPropertyTest()
      : random_(static_cast<uint64_t>(::testing::UnitTest::GetInstance()->random_seed())),
        cluster_({.nodes = 3, .dram_bytes = 2 << 20, .ssd_bytes = 4 << 20, .map_host_peers = GetParam()}) {
    for (size_t node = 0; node < 3; ++node) clients_.push_back(cluster_.Connect(node, TwoParts()));
  }

  uint64_t Below(uint64_t end) { return random_() % end; }

  // A path down a tree of prompts: most of them share their beginning with others.
  std::vector<BlockKey> RandomChain(const CacheClient& client) {
    std::vector<uint32_t> tokens;
    const uint64_t blocks = 1 + Below(24);
    uint32_t path = static_cast<uint32_t>(Below(4));
    for (uint64_t block = 0; block < blocks; ++block) {
      if (Below(8) == 0) path = path * 31 + static_cast<uint32_t>(1 + Below(3));
      for (uint32_t i = 0; i < kBlockTokens; ++i) tokens.push_back(path * 1000 + static_cast<uint32_t>(block));
    }
    ChainHasher hasher = *client.NewHasher();
    std::vector<BlockKey> keys;
    EXPECT_TRUE(hasher.AppendTokens(tokens, keys).ok());
    return keys;
  }

  void PublishSome(size_t node) {
    const std::vector<BlockKey> keys = RandomChain(*clients_[node]);
    (void)testing::Publish(*clients_[node], keys, testing::FillWithPosition);
  }

  // Returns false when the client cannot know what the node did.
  void AcquireSome(size_t node) {
    CacheClient& client = *clients_[node];
    const std::vector<BlockKey> keys = RandomChain(client);
    AcquireOptions options;
    if (Below(2) == 0) options.parts = {static_cast<uint32_t>(Below(2))};
    constexpr std::array kSpeeds = {absl::ZeroDuration(), absl::Microseconds(1), absl::Milliseconds(1), absl::Seconds(1)};
    options.block_compute = kSpeeds.at(Below(kSpeeds.size()));
    absl::StatusOr<Stem> stem = client.Acquire(keys, options, Soon());
    ASSERT_TRUE(stem.ok()) << stem.status();
    Told& told = told_[node];
    const uint64_t parts = stem->parts_asked();
    ++told.acquires;
    told.blocks += keys.size();
    told.tokens += keys.size() * kBlockTokens * parts / 2;
    std::vector<std::vector<std::byte>> memory(stem->matched_blocks() * parts, std::vector<std::byte>(kBlockBytes));
    const LoadResult loaded = client.Load(*stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon());
    told.tokens_loaded += loaded.blocks_loaded * kBlockTokens * parts / 2;
    for (uint32_t block = 0; block < stem->matched_blocks(); ++block) ++told.hit.at(static_cast<size_t>(stem->source(block)));
    uint64_t missed = 0;
    for (const MissRun& run : stem->misses()) {
      told.missed[CauseName(run.cause)] += run.count;
      missed += run.count;
    }
    EXPECT_EQ(stem->matched_blocks() + missed, keys.size());
  }

  std::mt19937_64 random_;
  InProcessCluster cluster_;
  std::vector<std::unique_ptr<CacheClient>> clients_;
  std::array<Told, 3> told_;
};

TEST_P(MissCausesPropertyTest, HitsAndCausesAddUpToWhatWasAsked) {
  SCOPED_TRACE(absl::StrCat("--gtest_random_seed=", ::testing::UnitTest::GetInstance()->random_seed()));
  size_t nodes = 3;
  for (int step = 0; step < 600 && !HasFatalFailure(); ++step) {
    if (step == 450) cluster_.StopNode(--nodes);  // what only it held is lost
    const size_t node = Below(nodes);
    if (Below(3) == 0) {
      PublishSome(node);
    } else {
      AcquireSome(node);
    }
  }
  std::map<std::string, uint64_t> causes;
  for (size_t node = 0; node < nodes; ++node) {
    SCOPED_TRACE(absl::StrCat("node ", node));
    const Told& told = told_[node];
    const std::string http = cluster_.node(node).http_address();
    const std::string loaded = "stage=\"loaded\"";
    const absl::Time end = Soon();  // releases are on their way
    while (ScrapedMetrics(http).Sum("stemcache_node_funnel_tokens_total", loaded) < static_cast<double>(told.tokens_loaded) && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(5));
    }
    const ScrapedMetrics scraped(http);
    EXPECT_EQ(scraped.Sum("stemcache_node_acquires_total"), told.acquires);
    EXPECT_EQ(scraped.Sum("stemcache_node_asked_blocks_total"), told.blocks);
    EXPECT_EQ(scraped.Sum("stemcache_node_asked_tokens_total"), told.tokens);
    EXPECT_EQ(scraped.Sum("stemcache_node_hit_tokens_total") + scraped.Sum("stemcache_node_missed_tokens_total"), told.tokens);
    EXPECT_EQ(scraped.Sum("stemcache_node_funnel_tokens_total", loaded), told.tokens_loaded);
    for (size_t source = 1; source < kSources.size(); ++source) {
      EXPECT_EQ(scraped.Sum("stemcache_node_hit_blocks_total", absl::StrCat("source=\"", kSources[source], "\"")), told.hit[source]) << kSources[source];
    }
    for (int cause = 1; cause <= v1::MissCause_MAX; ++cause) {
      const std::string name = CauseName(static_cast<v1::MissCause>(cause));
      const auto it = told.missed.find(name);
      const uint64_t missed = it == told.missed.end() ? 0 : it->second;
      EXPECT_EQ(scraped.Sum("stemcache_node_missed_blocks_total", absl::StrCat("cause=\"", name, "\"")), missed) << name;
      if (missed > 0) causes[name] += missed;
    }
  }
  EXPECT_GE(causes.size(), 4u) << "the requests are too tame to show anything";
}

// What was on its way when its client left is missed, for lack of time, and counted once like all else.
TEST_P(MissCausesPropertyTest, ClientsThatLeaveEarlyLeaveNothingUncounted) {
  for (int i = 0; i < 40; ++i) PublishSome(Below(3));
  cluster_.Settle();
  uint64_t blocks = 0;
  for (int i = 0; i < 200; ++i) {
    const std::vector<BlockKey> keys = RandomChain(*clients_[0]);
    blocks += keys.size();
    (void)clients_[0]->Acquire(keys, {}, Soon());
  }
  clients_.clear();
  const absl::Time end = Soon();
  while (absl::Now() < end && ScrapedMetrics(cluster_.node(0).http_address()).Sum("stemcache_node_acquires_total") < 200) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  const ScrapedMetrics scraped(cluster_.node(0).http_address());
  EXPECT_EQ(scraped.Sum("stemcache_node_acquires_total"), 200);
  EXPECT_EQ(scraped.Sum("stemcache_node_hit_blocks_total") + scraped.Sum("stemcache_node_missed_blocks_total"), static_cast<double>(blocks));
}
INSTANTIATE_TEST_SUITE_P(MapHostPeers, MissCausesPropertyTest, ::testing::Bool());

}  // namespace
}  // namespace stem
