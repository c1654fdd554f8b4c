// What one client publishes, others read: from the same node, from another node, from disk, after a restart. And what they
// must never read: other namespaces' blocks, and bytes that were altered on the way.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 16384;

std::byte ByteOf(size_t block, size_t offset, unsigned salt) {
  return static_cast<std::byte>(block * 131 + offset * 7 + (offset >> 8) + salt);
}

uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys, unsigned salt = 0) {
  return testing::Publish(client, keys, [salt](const WantedPayload& wanted) {
    for (size_t i = 0; i < wanted.staging.size(); ++i) wanted.staging[i] = ByteOf(wanted.position, i, salt);
  });
}

struct Fetched {
  uint32_t matched = 0;
  uint32_t loaded = 0;
  absl::Status status;
  std::vector<v1::Source> sources;
  std::vector<MissRun> misses;
  bool equal = true;  // every loaded byte is what was published
};

Fetched Fetch(CacheClient& client, const std::vector<BlockKey>& keys, uint64_t block_bytes = kBlockBytes, unsigned salt = 0) {
  Fetched fetched;
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return fetched;
  fetched.matched = stem->matched_blocks();
  std::vector<std::vector<std::byte>> memory(fetched.matched, std::vector<std::byte>(block_bytes));
  const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
  const LoadResult result = client.Load(*stem, 0, destinations, Soon());
  fetched.loaded = result.blocks_loaded;
  fetched.status = result.status;
  for (uint32_t block = 0; block < fetched.loaded; ++block) {
    fetched.sources.push_back(stem->source(block));
    for (size_t i = 0; i < block_bytes; ++i) fetched.equal &= memory[block][i] == ByteOf(block, i, salt);
  }
  fetched.misses = stem->misses();
  return fetched;
}

TEST(SharingTest, PublishedChainIsReadOnTheSameNodeAndOnAnother) {
  InProcessCluster cluster({.nodes = 2});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 20);
  EXPECT_EQ(Fetch(*writer, keys).matched, 0u);
  EXPECT_EQ(Publish(*writer, keys), 20u);
  EXPECT_EQ(Publish(*writer, keys), 0u) << "held: not wanted again";

  const Fetched local = Fetch(*cluster.Connect(0, TestSpec(kBlockBytes)), keys);
  EXPECT_EQ(local.loaded, 20u) << local.status;
  EXPECT_TRUE(local.equal);
  EXPECT_THAT(local.sources, ::testing::Each(v1::SOURCE_LOCAL_DRAM));

  cluster.Settle();
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  EXPECT_EQ(ChainOf(*reader, 20), keys) << "one root for the cluster";
  const Fetched remote = Fetch(*reader, keys);
  EXPECT_EQ(remote.loaded, 20u) << remote.status;
  EXPECT_TRUE(remote.equal);
  EXPECT_THAT(remote.sources, ::testing::Each(v1::SOURCE_REMOTE_DRAM));
  EXPECT_THAT(Fetch(*reader, keys).sources, ::testing::Each(v1::SOURCE_LOCAL_DRAM)) << "read once, it is a copy here";
}

class PromisedBlocksTest : public ::testing::TestWithParam<bool> {};

// Law 4. The second client's stem is what the first one's request brings, and the first leaves: at once, or with the second's answer.
TEST_P(PromisedBlocksTest, WhoBringsABlockThatAnotherWasPromisedLeavesAndItComes) {
  constexpr uint64_t kLargeBytes = 256 << 10;
  constexpr uint32_t kBlocks = 32;
  InProcessCluster cluster({.nodes = 2, .dram_bytes = 32 << 20, .map_host_peers = GetParam()});
  const auto writer = cluster.Connect(0, TestSpec(kLargeBytes), 16 << 20);
  const auto first = cluster.Connect(1, TestSpec(kLargeBytes));
  const auto second = cluster.Connect(1, TestSpec(kLargeBytes));
  for (uint32_t round = 0; round < 24; ++round) {
    const std::vector<BlockKey> keys = ChainOf(*writer, kBlocks, 1 + round * 100000);
    ASSERT_EQ(Publish(*writer, keys), kBlocks);
    cluster.Settle();
    absl::StatusOr<Stem> brought = first->Acquire(keys, {}, Soon());
    ASSERT_TRUE(brought.ok()) << brought.status();
    EXPECT_EQ(brought->matched_blocks(), kBlocks);
    if (round % 2 == 0) *brought = Stem();
    absl::StatusOr<Stem> promised = second->Acquire(keys, {}, Soon());
    ASSERT_TRUE(promised.ok()) << promised.status();
    *brought = Stem();
    EXPECT_EQ(promised->matched_blocks(), kBlocks);
    std::vector<std::vector<std::byte>> memory(kBlocks, std::vector<std::byte>(kLargeBytes));
    const LoadResult loaded = second->Load(*promised, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon());
    ASSERT_EQ(loaded.blocks_loaded, kBlocks) << "round " << round << ": " << loaded.status;
  }
}
INSTANTIATE_TEST_SUITE_P(MapHostPeers, PromisedBlocksTest, ::testing::Bool());

TEST(SharingTest, LongerPromptMatchesItsStem) {
  InProcessCluster cluster({.nodes = 2});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  Publish(*writer, ChainOf(*writer, 6));
  cluster.Settle();
  const Fetched fetched = Fetch(*cluster.Connect(1, TestSpec(kBlockBytes)), ChainOf(*writer, 10));
  EXPECT_EQ(fetched.loaded, 6u);
  EXPECT_EQ(fetched.misses, (std::vector<MissRun>{{.first = 6, .count = 4, .cause = v1::MISS_CAUSE_COLD}}));
}

TEST(SharingTest, PartsAreMatchedTogether) {
  InProcessCluster cluster({.nodes = 2});
  NamespaceSpec spec = TestSpec(kBlockBytes);
  spec.parts.push_back({.id = 3, .layer_first = 8, .block_bytes = kBlockBytes});
  const auto writer = cluster.Connect(0, spec);
  const std::vector<BlockKey> keys = ChainOf(*writer, 4);
  EXPECT_EQ(Publish(*writer, keys), 8u);
  cluster.Settle();
  const auto reader = cluster.Connect(1, spec);
  absl::StatusOr<Stem> stem = reader->Acquire(keys, {}, Soon());
  ASSERT_TRUE(stem.ok());
  EXPECT_EQ(stem->matched_blocks(), 4u);
  EXPECT_EQ(stem->parts_asked(), 2u);
  const absl::StatusOr<View> view = reader->Read(*stem, 5, Soon());  // block 2, part 3
  ASSERT_TRUE(view.ok()) << view.status();
  EXPECT_EQ(view->payload()[9], ByteOf(5, 9, 0));
}

TEST(SharingTest, FirstPublisherWins) {
  InProcessCluster cluster({.nodes = 1});
  const auto first = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto second = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*first, 3);
  absl::StatusOr<Reservation> reserved = first->Reserve(keys, {}, Soon());
  ASSERT_EQ(reserved->wanted().size(), 3u);
  const absl::StatusOr<Reservation> late = second->Reserve(keys, {}, Soon());
  EXPECT_TRUE(late->wanted().empty());
  EXPECT_EQ(late->being_published(), 3u);
  *reserved = Reservation();  // abandoned: the keys are free again
  uint32_t published = 0;  // the two speak on streams of their own: the abandonment may be on its way
  for (const absl::Time end = Soon(); published == 0 && absl::Now() < end;) published = Publish(*second, keys, 5);
  EXPECT_EQ(published, 3u);
  EXPECT_EQ(Publish(*first, keys, 9), 0u);
  EXPECT_TRUE(Fetch(*first, keys, kBlockBytes, 5).equal);
}

TEST(SharingTest, OtherNamespaceMissesWithTheExactKeys) {
  InProcessCluster cluster({.nodes = 2});
  const auto owner = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*owner, 4);
  Publish(*owner, keys);
  cluster.Settle();
  for (size_t i : {0u, 1u}) {
    const auto stranger = cluster.Connect(i, TestSpec(kBlockBytes, "another-model"));
    EXPECT_NE(ChainOf(*stranger, 4), keys) << "another root";
    EXPECT_EQ(Fetch(*stranger, keys).matched, 0u) << "law 9: the exact keys are not enough";
  }
}

TEST(SharingTest, SpilledBlocksAreHitsHereThereAndAfterARestart) {
  InProcessCluster cluster({.nodes = 2, .dram_bytes = 1 << 20, .ssd_bytes = 64 << 20});
  auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  std::vector<std::vector<BlockKey>> chains;
  for (uint32_t i = 0; i < 12; ++i) {  // 192 blocks through 51 slots
    chains.push_back(ChainOf(*writer, 16, 1 + 100000 * i));
    ASSERT_EQ(Publish(*writer, chains.back()), 16u);
  }
  cluster.Settle();
  const Fetched local = Fetch(*writer, chains[0]);
  EXPECT_EQ(local.loaded, 16u) << local.status;
  EXPECT_TRUE(local.equal);
  EXPECT_THAT(local.sources, ::testing::Contains(v1::SOURCE_LOCAL_SSD));

  const Fetched remote = Fetch(*cluster.Connect(1, TestSpec(kBlockBytes)), chains[1]);
  EXPECT_EQ(remote.loaded, 16u) << remote.status;
  EXPECT_TRUE(remote.equal);
  EXPECT_THAT(remote.sources, ::testing::Contains(v1::SOURCE_REMOTE_SSD));

  writer.reset();
  cluster.StopNode(0);
  cluster.StartNode(0);
  cluster.Settle();
  EXPECT_GT(cluster.node(0).Status().blocks_ssd(), 0u);
  const Fetched restarted = Fetch(*cluster.Connect(0, TestSpec(kBlockBytes)), chains[2]);
  EXPECT_EQ(restarted.loaded, 16u) << restarted.status;
  EXPECT_TRUE(restarted.equal);
}

// ---- Altered bytes ------------------------------------------------------------------------------------------------------

// Which field, and whether peers read it in place.
class AlteredSlotTest : public ::testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  // Alters block 2's slot in node 0's memory behind its back: in its payload or in one field of its header.
  void Alter(InProcessCluster& cluster, const BlockKey& key) {
    GroupMemory& memory = *cluster.node(0).memories()[0];
    const BlockName name{FindSpace(memory, key), key};
    const BlockPin pin = memory.pool->Pin(name);
    ASSERT_TRUE(pin.valid());
    const SlotGeometry& geometry = memory.pool->geometry();
    const SlotView<std::byte> slot(memory.arena.bytes().subspan(pin.slot() * geometry.slot_bytes, geometry.slot_bytes),
                                   geometry);
    SlotHeader header = slot.header();
    const std::string what = std::get<0>(GetParam());
    if (what == "payload") slot.payload(kBlockBytes)[kBlockBytes / 2] ^= std::byte{1};
    if (what == "key") header.name.key.low ^= 1;
    if (what == "namespace") header.name.space.high ^= 1;
    if (what == "generation") header.generation += 1;
    if (what == "length") header.length -= 1;
    if (what == "digest") header.digest ^= 1;
    slot.set_header(header);
  }
  static NamespaceFingerprint FindSpace(const GroupMemory& memory, const BlockKey& key) {
    NamespaceFingerprint space;
    memory.pool->Snapshot([&](const BlockChange& change) {
      if (change.name.key == key) space = change.name.space;
    });
    return space;
  }
};

TEST_P(AlteredSlotTest, IsRefusedByThePeerAndQuarantinedByItsOwner) {
  InProcessCluster cluster({.nodes = 2, .map_host_peers = std::get<1>(GetParam())});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 5);
  Publish(*writer, keys);
  cluster.Settle();
  Alter(cluster, keys[2]);
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const Fetched fetched = Fetch(*reader, keys);
  EXPECT_EQ(fetched.loaded, 2u);
  EXPECT_TRUE(fetched.equal);
  EXPECT_EQ(fetched.misses.front().cause, v1::MISS_CAUSE_INTEGRITY);
  EXPECT_EQ(cluster.node(1).Status().integrity_failures(), 1u);
  // The owner checks what it is told, and withdraws the block with everything that hangs on it.
  const absl::Time end = Soon();
  while (cluster.node(0).Status().blocks_dram() != 2 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
  EXPECT_EQ(cluster.node(0).Status().blocks_dram(), 2u);
  EXPECT_EQ(Fetch(*writer, keys).loaded, 2u);
  EXPECT_EQ(Publish(*writer, keys), 3u) << "and it can be published again";
  EXPECT_EQ(Fetch(*writer, keys).loaded, 5u);
}

TEST_P(AlteredSlotTest, IsRefusedByALocalClient) {
  InProcessCluster cluster({.nodes = 1});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 5);
  Publish(*client, keys);
  Alter(cluster, keys[2]);
  const Fetched fetched = Fetch(*client, keys);
  EXPECT_EQ(fetched.loaded, 2u);
  EXPECT_EQ(fetched.status.code(), absl::StatusCode::kDataLoss);
  const absl::Time end = Soon();
  while (cluster.node(0).Status().blocks_dram() != 2 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(2));
  EXPECT_EQ(cluster.node(0).Status().blocks_dram(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Fields, AlteredSlotTest,
                         ::testing::Combine(::testing::Values("payload", "key", "namespace", "generation", "length", "digest"),
                                            ::testing::Bool()),
                         [](const auto& each) {
                           return absl::StrCat(std::get<0>(each.param), std::get<1>(each.param) ? "InPlace" : "OverTheWire");
                         });

// ---- Losses -------------------------------------------------------------------------------------------------------------

TEST(SharingTest, LostNodesBlocksAreMissesThatSaySo) {
  InProcessCluster cluster({.nodes = 2});
  auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*writer, 4);
  Publish(*writer, keys);
  cluster.Settle();
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  cluster.StopNode(0);
  const Fetched fetched = Fetch(*reader, keys);
  EXPECT_EQ(fetched.matched, 0u);
  EXPECT_EQ(fetched.misses, (std::vector<MissRun>{{.first = 0, .count = 4, .cause = v1::MISS_CAUSE_NODE_LOST}}));
  EXPECT_FALSE(writer->Acquire(keys, {}, absl::Now() + absl::Seconds(2)).ok());

  cluster.StartNode(0);
  cluster.Settle();
  const absl::Time end = Soon();  // attempts back off
  while (!writer->Acquire(keys, {}, Soon()).ok() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_EQ(Publish(*writer, keys), 4u) << "the client attaches to the successor by itself";
}

TEST(SharingTest, EvictedBlocksAreMissesThatSaySo) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 1 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> old = ChainOf(*client, 16);
  Publish(*client, old);
  for (uint32_t i = 1; i < 5; ++i) Publish(*client, ChainOf(*client, 16, 1 + 100000 * i));
  cluster.Settle();
  const Fetched fetched = Fetch(*client, old);
  EXPECT_LT(fetched.matched, 16u);
  ASSERT_FALSE(fetched.misses.empty());
  EXPECT_EQ(fetched.misses.back().cause, v1::MISS_CAUSE_EVICTED);
}

// The conversation that was used last leaves first, as its engine said that it is over.
TEST(SharingTest, EndedConversationLeavesBeforeOlderOnes) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 1 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto publish = [&](const std::vector<BlockKey>& keys, const Conversation& conversation) {
    ReserveOptions options;
    options.conversation = conversation;
    absl::StatusOr<Reservation> reservation = client->Reserve(keys, options, Soon());
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    for (const WantedPayload& wanted : reservation->wanted()) testing::FillWithPosition(wanted);
    ASSERT_TRUE(client->Commit(*std::move(reservation), Soon()).ok());
  };
  const std::vector<BlockKey> kept = ChainOf(*client, 16), told = ChainOf(*client, 8, 100'000), ended = ChainOf(*client, 8, 200'000);
  publish(kept, {.id = 1, .outlook = Outlook::kWillResume});
  publish(told, {.id = 2, .outlook = Outlook::kEnded});
  publish(ended, {.id = 3});
  client->EndConversation(3);
  AcquireOptions other;
  other.conversation = {.id = 4};
  const std::vector<BlockKey> small = ChainOf(*client, 2, 300'000);
  publish(small, other.conversation);
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(client->Acquire(small, other, Soon()).ok());
  publish(ChainOf(*client, 24, 400'000), {.id = 5});
  EXPECT_EQ(Fetch(*client, kept).matched, 16u) << "the oldest";
  EXPECT_LT(Fetch(*client, told).matched + Fetch(*client, ended).matched, 16u);
}

TEST(SharingTest, PinnedStemSurvivesPressureAndPublishesAreRefusedWithTheNumbers) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 1 << 20});
  const auto client = cluster.Connect(0, TestSpec(kBlockBytes));
  const std::vector<BlockKey> keys = ChainOf(*client, 50);
  ASSERT_EQ(Publish(*client, keys), 50u);
  const absl::StatusOr<Stem> stem = client->Acquire(keys, {}, Soon());
  ASSERT_EQ(stem->matched_blocks(), 50u);
  absl::StatusOr<Reservation> reservation = client->Reserve(ChainOf(*client, 4, 777777), {}, Soon());
  ASSERT_EQ(reservation->wanted().size(), 4u);
  const absl::StatusOr<CommitResult> refused = client->Commit(*std::move(reservation), Soon());
  ASSERT_TRUE(refused.ok());
  EXPECT_EQ(refused->committed, 1u);
  EXPECT_EQ(refused->refused, 3u);
  EXPECT_FALSE(refused->reason.empty());
  std::vector<std::vector<std::byte>> memory(50, std::vector<std::byte>(kBlockBytes));
  EXPECT_EQ(client->Load(*stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon()).blocks_loaded, 50u);
}

TEST(SharingTest, AcquireEndsAtItsDeadlineWhenTheDirectoryIsSilent) {
  // A directory that accepts and never answers.
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(bind(listener, reinterpret_cast<struct sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(listener, 8), 0);
  socklen_t size = sizeof(address);
  getsockname(listener, reinterpret_cast<struct sockaddr*>(&address), &size);

  const TempDirectory directory;
  std::ofstream(directory.path() + "/secret") << std::string(32, 's');
  std::ostringstream lines;
  Logger log({.process = "test", .out = &lines});
  NodeConfig config;
  config.name = "alone";
  config.socket = directory.path() + "/n.sock";
  config.listen = config.http = "127.0.0.1:0";
  config.directories = {"127.0.0.1:" + std::to_string(ntohs(address.sin_port))};
  config.secret_file = directory.path() + "/secret";
  config.dram_bytes = 1 << 20;
  const auto node = Node::Start(config, log);
  ASSERT_TRUE(node.ok()) << node.status();
  const auto client =
      CacheClient::Connect({.node = "unix://" + config.socket, .space = TestSpec(kBlockBytes), .staging_bytes = 0}, Soon());
  ASSERT_TRUE(client.ok()) << client.status();
  const std::vector<BlockKey> keys = ChainOf(**client, 3);
  const absl::Time before = absl::Now();
  const absl::StatusOr<Stem> stem = (*client)->Acquire(keys, {}, absl::Now() + absl::Milliseconds(300));
  EXPECT_LT(absl::Now() - before, absl::Seconds(10));
  if (stem.ok()) {
    EXPECT_EQ(stem->matched_blocks(), 0u);
    EXPECT_THAT(stem->misses().front().cause, ::testing::AnyOf(v1::MISS_CAUSE_UNKNOWN, v1::MISS_CAUSE_DEADLINE));
  } else {
    EXPECT_EQ(stem.status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  close(listener);
}

}  // namespace
}  // namespace stem
