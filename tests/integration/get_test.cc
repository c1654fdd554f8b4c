// Get against whole nodes: right bytes while slots change under it, and a node that counts, traces and ranks what was got without asking.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/pages.h"
#include "tests/support/publishing.h"
#include "tests/support/scraped_metrics.h"
#include "tests/support/span_receiver.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Publish;
using ::stem::testing::ScrapedMetrics;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 65536;

struct Pages : testing::Pages {
  explicit Pages(size_t blocks) : testing::Pages(blocks, kBlockBytes) {}
};

void ExpectPositions(const Pages& pages, uint32_t blocks) {
  for (uint32_t block = 0; block < blocks; ++block) {
    ASSERT_EQ(std::ranges::count(pages.spans[block], static_cast<std::byte>(block)), ptrdiff_t{kBlockBytes}) << block;
  }
}

// Waits until the node's page says that so many tokens were asked for.
ScrapedMetrics AfterTokensAsked(const std::string& http, double tokens) {
  const absl::Time end = Soon();
  while (true) {
    ScrapedMetrics metrics(http);
    if (metrics.Sum("stemcache_node_asked_tokens_total") >= tokens || absl::Now() > end) return metrics;
    absl::SleepFor(absl::Milliseconds(5));
  }
}

TEST(GetIntegrationTest, NodeCountsAndTracesWhatWasGotWithoutAsking) {
  SpanReceiver receiver;
  TracingOptions tracing;
  tracing.otlp = receiver.url();
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 8 << 20, .tracing = tracing});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 8);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 8u);
  Pages pages(8);
  const GetResult got = client->Get(
      keys, {.request = "r-1", .traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", .block_compute = absl::Milliseconds(10)},
      pages.spans, Soon());
  ASSERT_TRUE(got.status.ok()) << got.status;
  EXPECT_EQ(got.blocks_loaded, 8u);
  ExpectPositions(pages, 8);
  const ScrapedMetrics metrics = AfterTokensAsked(cluster.node(0).http_address(), 128);
  EXPECT_EQ(metrics.Sum("stemcache_node_asked_tokens_total"), 128);
  EXPECT_EQ(metrics.Sum("stemcache_node_hit_tokens_total", "source=\"local_dram\""), 128);
  EXPECT_EQ(metrics.Sum("stemcache_node_bytes_total", "path=\"local\""), 8.0 * kBlockBytes);
  EXPECT_EQ(metrics.Sum("stemcache_node_funnel_tokens_total", "stage=\"loaded\""), 128);
  EXPECT_NEAR(metrics.Sum("stemcache_node_prefill_saved_seconds_total"), 0.08, 1e-6);
  const auto is_it = [](const ReceivedSpan& each) {
    return each.span.name() == "acquire" && absl::BytesToHexString(each.span.parent_span_id()) == "b7ad6b7169203331";
  };
  ASSERT_TRUE(receiver.WaitFor([&](const auto& spans) { return std::ranges::any_of(spans, is_it); }));
  const std::vector<ReceivedSpan> spans = receiver.spans();
  const ReceivedSpan& span = *std::ranges::find_if(spans, is_it);
  EXPECT_EQ(span.Attribute("stemcache.request"), "r-1");
  EXPECT_GT(span.span.end_time_unix_nano(), span.span.start_time_unix_nano());
}

TEST(GetIntegrationTest, WhatIsGotStaysWhileOthersLeave) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 4 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> kept = ChainOf(*client, 8, 1);
  const std::vector<BlockKey> other = ChainOf(*client, 8, 100'000);
  ASSERT_EQ(Publish(*client, kept, FillWithPosition), 8u);
  ASSERT_EQ(Publish(*client, other, FillWithPosition), 8u);
  Pages pages(8);
  for (uint32_t round = 1; round <= 20; ++round) {
    ASSERT_EQ(client->Get(kept, {}, pages.spans, Soon()).blocks_loaded, 8u) << "round " << round;
    AfterTokensAsked(cluster.node(0).http_address(), 128.0 * round);  // it was told
    ASSERT_EQ(Publish(*client, ChainOf(*client, 8, 1'000'000 * round), FillWithPosition), 8u);
  }
  EXPECT_EQ(client->Get(kept, {}, pages.spans, Soon()).blocks_loaded, 8u);
  const GetResult gone = client->Get(other, {}, pages.spans, Soon());
  EXPECT_EQ(gone.blocks_loaded, 0u);
  ASSERT_EQ(gone.misses.size(), 1u);
  EXPECT_EQ(gone.misses[0].cause, v1::MISS_CAUSE_EVICTED);
}

TEST(GetIntegrationTest, AWrongByteIsNeverHandedOutAndItsBlockLeaves) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 8 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 8);
  ASSERT_EQ(Publish(*client, keys, FillWithPosition), 8u);
  GroupMemory& memory = *cluster.node(0).memories()[0];
  {
    const BlockPin pin = memory.pool->Pin({client->fingerprint(), keys[5]});
    const SlotGeometry& geometry = memory.pool->geometry();
    memory.arena.bytes()[pin.slot() * geometry.slot_bytes + geometry.payload_offset + 1234] ^= std::byte{4};
  }
  Pages pages(8);
  const GetResult got = client->Get(keys, {}, pages.spans, Soon());
  EXPECT_EQ(got.blocks_loaded, 5u);
  EXPECT_TRUE(absl::IsDataLoss(got.status)) << got.status;
  ExpectPositions(pages, 5);
  const absl::Time end = Soon();
  while (memory.pool->stats().quarantined == 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(memory.pool->stats().quarantined, 1u);
  const GetResult again = client->Get(keys, {}, pages.spans, Soon());
  EXPECT_EQ(again.blocks_loaded, 5u);
  EXPECT_TRUE(again.status.ok()) << again.status;
}

TEST(GetIntegrationTest, WhatAnotherNodeHoldsIsFetchedAndThenCopiedWithoutACall) {
  InProcessCluster cluster({.nodes = 2, .dram_bytes = 8 << 20, .map_host_peers = false});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 8);
  ASSERT_EQ(Publish(*writer, keys, FillWithPosition), 8u);
  cluster.Settle();
  for (const v1::Source source : {v1::SOURCE_REMOTE_DRAM, v1::SOURCE_LOCAL_DRAM}) {
    Pages pages(8);
    const GetResult got = reader->Get(keys, {}, pages.spans, Soon());
    EXPECT_EQ(got.blocks_loaded, 8u) << got.status;
    ExpectPositions(pages, 8);
    EXPECT_EQ(reader->stats().payloads_loaded[source], 8u);
  }
}

// A pool of 24 slots in which a publisher replaces everything all the time, and two readers who do not ask.
TEST(GetIntegrationTest, SlotsThatChangeUnderACopyAreNeverHandedOut) {
  constexpr uint32_t kChains = 12;
  constexpr uint32_t kBlocks = 4;
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 24 * (kBlockBytes + 2 * 4096)});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  std::vector<std::vector<BlockKey>> chains;
  for (uint32_t chain = 0; chain < kChains; ++chain) chains.push_back(ChainOf(*writer, kBlocks, 10'000 * chain + 1));
  // Every word of a block says which chain and block it is of.
  const auto word_of = [](uint32_t chain, uint32_t block) { return uint64_t{chain} * 1000 + block + 1; };
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> loaded = 0, wrong = 0, missed = 0;
  const auto read = [&](uint32_t first, LocalProof proof) {
    const auto reader = *CacheClient::Connect({.node = "unix://" + cluster.socket(0),
                                               .space = TestSpec(kBlockBytes),
                                               .staging_bytes = 0,
                                               .client_name = "reader",
                                               .shared_group = "",
                                               .local_proof = proof},
                                              Soon());
    Pages pages(kBlocks);
    for (uint32_t chain = first; !stop; chain = (chain + 1) % kChains) {
      const GetResult got = reader->Get(chains[chain], {}, pages.spans, Soon());
      missed += got.blocks_loaded < kBlocks ? 1 : 0;
      for (uint32_t block = 0; block < got.blocks_loaded; ++block) {
        ++loaded;
        for (size_t i = 0; i < kBlockBytes; i += sizeof(uint64_t)) {
          uint64_t word = 0;
          std::memcpy(&word, pages.spans[block].data() + i, sizeof(word));
          if (word != word_of(chain, block)) ++wrong;
        }
      }
    }
  };
  std::thread first([&] { read(0, LocalProof::kFull); });
  std::thread second([&] { read(kChains / 2, LocalProof::kHeader); });
  const absl::Time end = absl::Now() + absl::Seconds(3);
  for (uint32_t chain = 0; absl::Now() < end; chain = (chain + 1) % kChains) {
    Publish(*writer, chains[chain], [&](const WantedPayload& wanted) {
      for (size_t i = 0; i < wanted.staging.size(); i += sizeof(uint64_t)) {
        const uint64_t word = word_of(chain, wanted.position);
        std::memcpy(wanted.staging.data() + i, &word, sizeof(word));
      }
    });
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_GT(loaded, 100u);
  EXPECT_GT(missed, 10u) << "nothing left under the readers, so nothing was shown";
}

}  // namespace
}  // namespace stem
