// Several directories over several nodes: they come and go while everything runs. And what is done by one for all: a prefill that
// many want is computed once, and what a reader sees of a sick node is told to every directory.
#include <atomic>
#include <cstdio>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;
using ::testing::ElementsAre;
using ::testing::UnorderedElementsAreArray;

constexpr uint64_t kBlockBytes = 4096;

uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys) {
  return testing::Publish(client, keys, FillWithPosition);
}

// Blocks that were loaded and are right.
uint32_t Fetch(CacheClient& client, const std::vector<BlockKey>& keys) {
  absl::StatusOr<Stem> stem = client.Acquire(keys, {}, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  if (!stem.ok()) return 0;
  std::vector<std::vector<std::byte>> memory(stem->matched_blocks(), std::vector<std::byte>(kBlockBytes));
  const std::vector<std::span<std::byte>> destinations(memory.begin(), memory.end());
  const LoadResult result = client.Load(*stem, 0, destinations, Soon());
  for (uint32_t block = 0; block < result.blocks_loaded; ++block) {
    EXPECT_THAT(memory[block], ::testing::Each(static_cast<std::byte>(block)));
  }
  return result.blocks_loaded;
}

std::vector<std::string> StreamsOf(const Node& node) {
  std::vector<std::string> streams;
  const v1::NodeStatusReply status = node.Status();
  for (const auto& stream : status.streams()) streams.push_back(stream.directory());
  return streams;
}

TEST(FleetTest, DirectoriesComeAndGoWhileNodesRun) {
  InProcessCluster cluster({.nodes = 2, .directories = 2});
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const std::vector<BlockKey> first = ChainOf(*writer, 8);
  EXPECT_EQ(Publish(*writer, first), 8u);
  cluster.Settle();

  // Both are replaced by a new one, which learns all by snapshot.
  const std::vector<std::string> old = cluster.directory_addresses();
  EXPECT_THAT(StreamsOf(cluster.node(0)), UnorderedElementsAreArray(old));
  cluster.StopDirectory(0);
  cluster.StartDirectory(0);
  const std::string fresh = cluster.directory_address(0);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(cluster.node(i).SetDirectories({fresh}).ok());
    EXPECT_THAT(StreamsOf(cluster.node(i)), ElementsAre(fresh));
  }
  cluster.StopDirectory(1);
  cluster.Settle();
  EXPECT_EQ(Fetch(*reader, first), 8u);
  const std::vector<BlockKey> second = ChainOf(*writer, 8, 9000);
  EXPECT_EQ(Publish(*writer, second), 8u);
  cluster.Settle();
  EXPECT_EQ(Fetch(*reader, second), 8u) << "and changes go on to it";

  const absl::Status refused = cluster.node(0).SetDirectories({fresh, "nonsense"});
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
  EXPECT_THAT(StreamsOf(cluster.node(0)), ElementsAre(fresh)) << "a bad list changes nothing";
  ASSERT_TRUE(cluster.node(0).SetDirectories({}).ok());
  EXPECT_TRUE(StreamsOf(cluster.node(0)).empty());
  EXPECT_EQ(Fetch(*writer, first), 8u) << "without directories a node has its own blocks";
}

TEST(FleetTest, ALongSnapshotComesChunkByChunk) {
  constexpr uint32_t kBlocks = 20'000;  // five chunks
  InProcessCluster cluster({.nodes = 1, .dram_bytes = kBlocks * 9000ULL});
  const auto writer = cluster.Connect(0, TestSpec(64), kBlocks * 64);
  const std::vector<BlockKey> keys = ChainOf(*writer, kBlocks);
  EXPECT_EQ(Publish(*writer, keys), kBlocks);
  cluster.StopDirectory(0);
  cluster.StartDirectory(0);
  ASSERT_TRUE(cluster.node(0).SetDirectories({cluster.directory_address(0)}).ok());
  cluster.Settle();  // gives up long before a node that waits for acknowledgements in vain
  std::ostringstream lines;
  Logger log({.process = "test", .out = &lines});
  const absl::StatusOr<ClusterSecret> secret = ClusterSecret::Read(cluster.secret_file(), log);
  ASSERT_TRUE(secret.ok()) << secret.status();
  DirectoryStub stub({.requester = "", .authorize = [&](grpc::ClientContext& context) { secret->AddToken(context); }, .host = ""});
  ASSERT_TRUE(stub.SetDirectories(cluster.directory_addresses()).ok());
  const auto reply = stub.Match({.space = writer->fingerprint(), .keys = keys, .parts = {}, .first = ""}, Soon());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->matched_blocks(), kBlocks);
}

// ---- Single flight ------------------------------------------------------------------------------------------------------

// What a crowd of engines did that got one new prompt at once.
struct Crowd {
  std::atomic<uint32_t> prefills{0};  // engines that computed
  std::atomic<uint32_t> computed{0};  // blocks that they computed
  std::atomic<uint32_t> published{0};
  std::atomic<uint32_t> loaded{0};  // blocks, proved
};

// Each engine asks for the chain, loads what is there, takes `prefill` to compute the rest, and publishes it.
void Flood(InProcessCluster& cluster, size_t nodes, uint32_t engines, uint32_t blocks, const AcquireOptions& options,
           absl::Duration prefill, Crowd& crowd) {
  constexpr uint64_t kBytes = 1024;
  std::atomic<uint32_t> ready{0};
  std::vector<std::thread> threads;
  for (uint32_t engine = 0; engine < engines; ++engine) {
    threads.emplace_back([&, engine] {
      const auto client = cluster.Connect(engine % nodes, TestSpec(kBytes), blocks * kBytes);
      const std::vector<BlockKey> keys = ChainOf(*client, blocks);
      ++ready;
      while (ready < engines) std::this_thread::yield();
      const absl::Time deadline = absl::Now() + absl::Seconds(60);
      uint32_t have = 0;
      {
        absl::StatusOr<Stem> stem = client->Acquire(keys, options, deadline);
        ASSERT_TRUE(stem.ok()) << stem.status();
        std::vector<std::byte> memory(stem->matched_blocks() * kBytes);
        std::vector<std::span<std::byte>> pages;
        for (uint32_t i = 0; i < stem->matched_blocks(); ++i) pages.push_back(std::span(memory).subspan(i * kBytes, kBytes));
        const LoadResult result = client->Load(*stem, 0, pages, deadline);
        have = result.blocks_loaded;
        for (uint32_t i = 0; i < have; ++i) ASSERT_EQ(pages[i][9], static_cast<std::byte>(i));
      }
      crowd.loaded += have;
      if (have == blocks) return;
      ++crowd.prefills;
      crowd.computed += blocks - have;
      absl::SleepFor(prefill);
      ReserveOptions publish;
      if (have > 0) publish.parent = keys[have - 1];
      absl::StatusOr<Reservation> reservation = client->Reserve(std::span(keys).subspan(have), publish, deadline);
      ASSERT_TRUE(reservation.ok()) << reservation.status();
      for (const WantedPayload& wanted : reservation->wanted()) {
        std::fill(wanted.staging.begin(), wanted.staging.end(), static_cast<std::byte>(have + wanted.position));
      }
      const absl::StatusOr<CommitResult> committed = client->Commit(*std::move(reservation), deadline);
      ASSERT_TRUE(committed.ok()) << committed.status();
      crowd.published += committed->committed;
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(FleetTest, PromptThatSixtyFourEnginesGetAtOnceIsComputedOnce) {
  constexpr uint32_t kBlocks = 512;  // 8k tokens
  for (const bool single_flight : {false, true}) {
    InProcessCluster cluster({.nodes = 4, .directories = 2, .dram_bytes = 16 << 20});
    AcquireOptions options;
    if (single_flight) options.compute = absl::Seconds(20);  // generous: the tests' machine may be busy
    Crowd crowd;
    Flood(cluster, 4, 64, kBlocks, options, absl::Milliseconds(200), crowd);
    std::printf("single flight %s: 64 engines on 4 nodes, %u blocks each: %u prefills of %u blocks, %u published, %u loaded\n",
                single_flight ? "on" : "off", kBlocks, crowd.prefills.load(), crowd.computed.load(), crowd.published.load(),
                crowd.loaded.load());
    if (!single_flight) continue;
    EXPECT_EQ(crowd.prefills, 1u);
    EXPECT_EQ(crowd.computed, kBlocks);
    EXPECT_EQ(crowd.published, kBlocks);
    EXPECT_EQ(crowd.loaded, 63 * kBlocks);
  }
}

// An engine that waits for another's prefill, in a thread of its own.
class Waiting {
 public:
  Waiting(CacheClient& client, const std::vector<BlockKey>& keys, absl::Duration compute) {
    client.AcquireAsync(keys, {.compute = compute}, absl::Now() + absl::Minutes(5), [this](absl::StatusOr<Stem> stem) {
      MutexLock lock(mutex_);
      stem_ = std::move(stem);
      answered_.NotifyAll();
    });
  }
  ~Waiting() { (void)End(); }
  absl::Status End() {
    MutexLock lock(mutex_);
    while (!stem_.has_value()) answered_.Wait(mutex_);
    return stem_->status();
  }
  // Blocks matched.
  uint32_t Join() {
    const absl::Status ended = End();
    EXPECT_TRUE(ended.ok()) << ended;
    MutexLock lock(mutex_);
    return ended.ok() ? (*stem_)->matched_blocks() : UINT32_MAX;
  }
  bool answered() {
    MutexLock lock(mutex_);
    return stem_.has_value();
  }
  std::vector<MissRun> misses() {
    Join();
    MutexLock lock(mutex_);
    return (*stem_)->misses();
  }

 private:
  Mutex mutex_;
  CondVar answered_;
  std::optional<absl::StatusOr<Stem>> stem_ ABSL_GUARDED_BY(mutex_);
};

class SingleFlightTest : public ::testing::Test {
 protected:
  void Start(absl::Duration compute) {
    first_ = cluster_.Connect(0, TestSpec(kBlockBytes));
    second_ = cluster_.Connect(1, TestSpec(kBlockBytes));
    keys_ = ChainOf(*first_, 8);
    Waiting computing(*first_, keys_, compute);
    EXPECT_EQ(computing.Join(), 0u) << "nobody computes it yet: go on";
    EXPECT_EQ(computing.misses()[0].cause, v1::MISS_CAUSE_COLD) << "what it computes itself is no `not_yet` to it";
    waiting_ = std::make_unique<Waiting>(*second_, keys_, absl::Minutes(1));
  }
  // A third that does not want to wait is told `not_yet`: so the intent is alive.
  void ExpectNotYet() {
    absl::StatusOr<Stem> stem = second_->Acquire(keys_, {}, Soon());
    ASSERT_TRUE(stem.ok());
    EXPECT_EQ(stem->misses()[0].cause, v1::MISS_CAUSE_NOT_YET);
    EXPECT_GT(stem->misses()[0].estimate_ms, 0u);
    EXPECT_FALSE(waiting_->answered());
  }

  InProcessCluster cluster_{{.nodes = 2}};
  std::unique_ptr<CacheClient> first_;
  std::unique_ptr<CacheClient> second_;
  std::vector<BlockKey> keys_;
  std::unique_ptr<Waiting> waiting_;
};

TEST_F(SingleFlightTest, WhoWaitsGetsWhatIsPublished) {
  Start(absl::Minutes(1));
  ExpectNotYet();
  EXPECT_EQ(Publish(*first_, keys_), 8u);
  EXPECT_EQ(waiting_->Join(), 8u);
}

TEST_F(SingleFlightTest, WhoSharesOnlyTheBeginningWaitsForThatAndComputesTheRest) {
  Start(absl::Minutes(1));
  std::vector<uint32_t> tokens(16 * 10);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = i < 16 * 6 ? static_cast<uint32_t>(i) + 1 : 70000;
  ChainHasher hasher = *second_->NewHasher();
  std::vector<BlockKey> other;
  ASSERT_TRUE(hasher.AppendTokens(tokens, other).ok());
  Waiting shares(*second_, other, absl::Minutes(1));
  EXPECT_EQ(Publish(*first_, std::vector<BlockKey>(keys_.begin(), keys_.begin() + 6)), 6u);
  EXPECT_EQ(shares.Join(), 6u);
  EXPECT_FALSE(waiting_->answered());
  EXPECT_EQ(Publish(*first_, keys_), 2u);
  EXPECT_EQ(waiting_->Join(), 8u);
}

TEST_F(SingleFlightTest, HungEngineIsWaitedForUntilItsTimeIsUp) {
  Start(absl::Milliseconds(100));
  EXPECT_EQ(waiting_->Join(), 0u) << "then another computes";
  EXPECT_EQ(Publish(*second_, keys_), 8u);
}

// These end a wait of a minute at once.
TEST_F(SingleFlightTest, EngineThatDiesIsNotWaitedFor) {
  Start(absl::Minutes(1));
  ExpectNotYet();
  const absl::Time died = absl::Now();
  first_.reset();
  EXPECT_EQ(waiting_->Join(), 0u);
  EXPECT_LT(absl::Now() - died, absl::Seconds(30));
}

TEST_F(SingleFlightTest, DirectoryThatDiesEndsTheWait) {
  Start(absl::Minutes(1));
  ExpectNotYet();
  const absl::Time died = absl::Now();
  cluster_.StopDirectory(0);
  EXPECT_EQ(waiting_->Join(), 0u);
  EXPECT_LT(absl::Now() - died, absl::Seconds(30));
  EXPECT_EQ(Publish(*second_, keys_), 8u) << "without a directory each computes for itself";
}

TEST_F(SingleFlightTest, NodeThatStopsLetsGoOfItsWaiters) {
  Start(absl::Minutes(1));
  ExpectNotYet();
  cluster_.StopNode(1);
  EXPECT_TRUE(absl::IsUnavailable(waiting_->End()));
}

// ---- Health -------------------------------------------------------------------------------------------------------------

// A directory that only listens.
class Listener final : public v1::Directory::Service {
 public:
  Listener() {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~Listener() override { server_->Shutdown(std::chrono::system_clock::now()); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  grpc::Status Announce(grpc::ServerContext*, grpc::ServerReaderWriter<v1::AnnounceReply, v1::AnnounceMessage>* stream) override {
    v1::AnnounceMessage message;
    while (stream->Read(&message)) {
      if (!message.has_heartbeat()) continue;
      MutexLock lock(mutex_);
      for (const v1::PeerReport& each : message.heartbeat().peers()) {
        total_.set_node(each.node());
        total_.set_reads(total_.reads() + each.reads());
        total_.set_failed_proofs(total_.failed_proofs() + each.failed_proofs());
        total_.set_deadline_misses(total_.deadline_misses() + each.deadline_misses());
      }
      heard_.NotifyAll();
    }
    return grpc::Status::OK;
  }
  v1::PeerReport Await(const std::function<bool(const v1::PeerReport&)>& condition) {
    MutexLock lock(mutex_);
    while (!condition(total_)) heard_.Wait(mutex_);  // ctest's limit ends a hang
    return total_;
  }

 private:
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  Mutex mutex_;
  CondVar heard_;
  v1::PeerReport total_ ABSL_GUARDED_BY(mutex_);
};

TEST(FleetTest, HeartbeatsTellHowReadsFromAPeerWent) {
  InProcessCluster cluster({.nodes = 2});
  Listener listener;
  ASSERT_TRUE(cluster.node(1).SetDirectories({cluster.directory_address(), listener.address()}).ok());
  const auto writer = cluster.Connect(0, TestSpec(kBlockBytes));
  const auto reader = cluster.Connect(1, TestSpec(kBlockBytes));
  const std::vector<BlockKey> good = ChainOf(*writer, 4);
  const std::vector<BlockKey> bad = ChainOf(*writer, 4, 9000);
  EXPECT_EQ(Publish(*writer, good) + Publish(*writer, bad), 8u);
  while (Fetch(*reader, good) < 4) absl::SleepFor(absl::Milliseconds(5));  // until the directory has heard of it
  const v1::PeerReport well = listener.Await([](const v1::PeerReport& report) { return report.reads() > 0; });
  EXPECT_EQ(well.node(), "node-0");
  EXPECT_EQ(well.reads(), 1u) << "four blocks under one lease are one read";
  EXPECT_EQ(well.failed_proofs() + well.deadline_misses(), 0u);

  // Behind the owner's back.
  GroupMemory& memory = *cluster.node(0).memories()[0];
  {
    const BlockPin pin = memory.pool->Pin({writer->fingerprint(), bad[1]});
    ASSERT_TRUE(pin.valid());
    const SlotGeometry& geometry = memory.pool->geometry();
    memory.arena.bytes()[pin.slot() * geometry.slot_bytes + geometry.payload_offset + 7] ^= std::byte{1};
  }
  Fetch(*reader, bad);
  EXPECT_EQ(listener.Await([](const v1::PeerReport& report) { return report.failed_proofs() > 0; }).reads(), 2u);
}

}  // namespace
}  // namespace stem
