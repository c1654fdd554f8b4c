// SIGKILL of real processes in the middle of real work: nodes, the directory, clients. What may be lost is hits; what may
// never be lost is right bytes, the survivors, and memory.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "proto/validate.h"
#include "services/ctl/cluster.h"
#include "services/ctl/process.h"
#include "services/ctl/replay.h"
#include "services/ctl/workload.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "tests/support/pages.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr uint64_t kSeed = 11;

v1::NodeStatusReply StatusOf(const std::string& socket) {
  const auto stub = v1::Node::NewStub(grpc::CreateChannel("unix:" + socket, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  v1::NodeStatusReply status;
  EXPECT_TRUE(stub->NodeStatus(&context, {}, &status).ok());
  return status;
}

class KillTest : public ::testing::Test {
 protected:
  void Up(uint32_t nodes, uint64_t dram_bytes, uint64_t ssd_bytes) {
    const absl::StatusOr<ClusterState> state = ClusterUp(
        {.dir = dir(), .nodes = nodes, .dram_bytes = dram_bytes, .ssd_bytes = ssd_bytes, .binaries = STEM_BINARIES});
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *state;
  }
  void TearDown() override { EXPECT_TRUE(ClusterDown(dir()).ok()); }

  std::string dir() const { return directory_.path() + "/c"; }

  // 400 requests, about 6,000 blocks of 8 KiB, from four clients.
  ReplayOptions Options() {
    const std::string trace = directory_.path() + "/trace.jsonl";
    if (access(trace.c_str(), R_OK) != 0) {
      EXPECT_TRUE(WriteWorkload({.requests = 400, .seed = kSeed, .block_tokens = 64}, trace).ok());
    }
    ReplayOptions options{.trace = trace,
                          .format = TraceFormat::kStem,
                          .block_tokens = 64,
                          .bytes_per_token = 128,
                          .clients = 4,
                          .deadline = absl::Seconds(10),
                          .directory = state_.directory.listen,
                          .secret_file = dir() + "/secret"};
    for (const auto& node : state_.nodes) options.nodes.push_back(node.socket);
    return options;
  }
  // Replays, and runs `event` once in another thread when `loads` requests have been loaded.
  absl::StatusOr<ReplayReport> ReplayWith(int loads, const std::function<void()>& event) {
    std::atomic<int> loaded{0};
    std::thread actor;
    const ReplayHooks hooks{.loaded = [&](const TraceRequest&, uint32_t, std::span<const std::span<std::byte>>) {
      if (++loaded == loads) actor = std::thread(event);
    }};
    absl::StatusOr<ReplayReport> report = RunReplay(Options(), hooks, nullptr);
    EXPECT_TRUE(actor.joinable()) << "the event never came: only " << loaded << " loads";
    if (actor.joinable()) actor.join();
    return report;
  }
  void Kill(const ProcessIdentity& process) {
    ASSERT_TRUE(Signal(process, SIGKILL).ok());
    ASSERT_TRUE(WaitForEnd(process, absl::Seconds(10)));
  }
  void Resume() {
    const absl::StatusOr<ClusterState> state = ClusterResume(dir(), STEM_BINARIES);
    ASSERT_TRUE(state.ok()) << state.status();
    state_ = *state;
  }

  TempDirectory directory_;
  ClusterState state_;
};

TEST_F(KillTest, ReplaySurvivesANodeAndFindsItsDiskAgainAfterItsRestart) {
  Up(3, 3 << 20, 1 << 30);  // 256 slots each: most of what is published goes to disk
  const absl::StatusOr<ReplayReport> report = ReplayWith(150, [&] { Kill(state_.nodes[1].process); });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->tally.requests, 400u);
  EXPECT_EQ(report->tally.mismatches, 0u);
  EXPECT_GT(report->tally.misses[v1::MISS_CAUSE_NODE_LOST], 0u);
  EXPECT_GT(report->tally.hit_blocks(), 0u);

  Resume();
  const uint64_t on_disk = StatusOf(state_.nodes[1].socket).blocks_ssd();
  EXPECT_GT(on_disk, 0u) << "what was acknowledged before the kill";
  const absl::StatusOr<ReplayReport> again = RunReplay(Options(), {}, nullptr);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tally.mismatches, 0u);
  EXPECT_GT(again->tally.hits[v1::SOURCE_LOCAL_SSD] + again->tally.hits[v1::SOURCE_REMOTE_SSD], 0u);
  EXPECT_GT(again->tally.hit_blocks(), report->tally.hit_blocks());
}

TEST_F(KillTest, ReplayGoesOnWithoutTheDirectoryWhichIsWholeAgainInFiveSeconds) {
  Up(2, 64 << 20, 0);
  const absl::StatusOr<ReplayReport> report = ReplayWith(100, [&] { Kill(state_.directory.process); });
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->tally.requests, 400u);
  EXPECT_EQ(report->tally.mismatches, 0u);
  EXPECT_GT(report->tally.hits[v1::SOURCE_LOCAL_DRAM], 0u);
  EXPECT_GT(report->tally.misses[v1::MISS_CAUSE_UNKNOWN], 0u) << "nobody to ask is not 'cold'";

  Resume();
  const absl::Time restarted = absl::Now();
  for (const auto& node : state_.nodes) {
    while (true) {
      const v1::NodeStatusReply status = StatusOf(node.socket);
      if (status.streams(0).connected() && status.streams(0).sequence_acknowledged() >= status.sequence()) break;
      ASSERT_LT(absl::Now() - restarted, absl::Seconds(5)) << "the index is not whole again";
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
  ReplayOptions swapped = Options();  // every request to the other node
  std::swap(swapped.nodes[0], swapped.nodes[1]);
  const absl::StatusOr<ReplayReport> again = RunReplay(swapped, {}, nullptr);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tally.mismatches, 0u);
  EXPECT_GT(again->tally.hits[v1::SOURCE_REMOTE_DRAM], 0u);
}

TEST_F(KillTest, ClientInTheMiddleOfALoadOutlivesItsNode) {
  Up(1, 64 << 20, 0);
  const NamespaceSpec spec = ReplaySpace(64, 128);
  const auto deadline = [] { return absl::Now() + absl::Seconds(20); };
  const auto client = CacheClient::Connect({.node = "unix://" + state_.nodes[0].socket, .space = spec}, deadline());
  ASSERT_TRUE(client.ok()) << client.status();
  ChainHasher hasher = *(*client)->NewHasher();
  std::vector<BlockKey> keys;
  ASSERT_TRUE(hasher.AppendTokens(std::vector<uint32_t>(64 * 100, 7), keys).ok());
  absl::StatusOr<Reservation> reservation = (*client)->Reserve(keys, {}, deadline());
  ASSERT_EQ(reservation->wanted().size(), 100u);
  for (const WantedPayload& wanted : reservation->wanted()) std::fill(wanted.staging.begin(), wanted.staging.end(), std::byte{9});
  ASSERT_TRUE((*client)->Commit(*std::move(reservation), deadline()).ok());

  absl::StatusOr<Stem> stem = (*client)->Acquire(keys, {}, deadline());
  ASSERT_EQ(stem->matched_blocks(), 100u);
  std::atomic<bool> dead{false};
  std::atomic<int> rounds{0};
  std::thread killer([&] {
    while (rounds < 3) std::this_thread::yield();
    Kill(state_.nodes[0].process);
    dead = true;
  });
  const testing::Pages pages(100, 8192);
  for (bool last = false; !last; ++rounds) {  // no SIGBUS: the memory stays mapped
    last = dead;
    const LoadResult result = (*client)->Load(*stem, 0, pages.spans, deadline());
    for (uint32_t block = 0; block < result.blocks_loaded; ++block) {
      ASSERT_EQ(pages.spans[block][8191], std::byte{9});
    }
  }
  killer.join();
}

TEST_F(KillTest, ClientsThatGetWithoutAskingOutliveTheirNodeAndFindTheNext) {
  constexpr uint32_t kChains = 12, kBlocks = 64;
  Up(1, 4 << 20, 0);  // room for a third of the chains: slots change all the time
  const NamespaceSpec spec = ReplaySpace(64, 128);
  const auto deadline = [] { return absl::Now() + absl::Seconds(20); };
  const std::string node = "unix://" + state_.nodes[0].socket;
  const auto publisher = CacheClient::Connect({.node = node, .space = spec}, deadline());
  const auto reader = CacheClient::Connect({.node = node, .space = spec, .staging_bytes = 0}, deadline());
  ASSERT_TRUE(publisher.ok() && reader.ok()) << publisher.status() << reader.status();
  std::vector<std::vector<BlockKey>> chains(kChains);
  for (uint32_t chain = 0; chain < kChains; ++chain) {
    ASSERT_TRUE((*publisher)->NewHasher()->AppendTokens(std::vector<uint32_t>(64 * kBlocks, chain), chains[chain]).ok());
  }
  std::atomic<bool> stop{false};
  std::thread publishing([&] {
    for (uint32_t chain = 0; !stop; chain = (chain + 1) % kChains) {
      absl::StatusOr<Reservation> reservation = (*publisher)->Reserve(chains[chain], {}, deadline());
      if (!reservation.ok()) continue;  // while there is no node
      for (const WantedPayload& wanted : reservation->wanted()) std::ranges::fill(wanted.staging, static_cast<std::byte>(chain + 1));
      (void)(*publisher)->Commit(*std::move(reservation), deadline());
    }
  });
  const testing::Pages pages(kBlocks, 8192);
  // Gets until so many blocks came, or too long; every byte of them is right.
  const auto get = [&](uint64_t enough, const std::atomic<bool>* until) {
    uint64_t loaded = 0;
    const absl::Time end = deadline();
    for (uint32_t chain = 0; absl::Now() < end && (until != nullptr ? !*until : loaded < enough); chain = (chain + 1) % kChains) {
      const GetResult got = (*reader)->Get(chains[chain], {}, pages.spans, deadline());
      const auto right = static_cast<std::byte>(chain + 1);
      EXPECT_EQ(std::count(pages.memory.begin(), pages.memory.begin() + got.blocks_loaded * 8192, right), got.blocks_loaded * 8192) << "chain " << chain;
      loaded += got.blocks_loaded;
    }
    return loaded;
  };
  EXPECT_GE(get(2000, nullptr), 2000u);
  std::atomic<bool> dead{false};
  std::thread killer([&] {
    absl::SleepFor(absl::Milliseconds(100));
    Kill(state_.nodes[0].process);
    absl::SleepFor(absl::Milliseconds(100));
    dead = true;
  });
  get(0, &dead);  // in the middle of it
  killer.join();
  Resume();
  EXPECT_GE(get(2000, nullptr), 2000u) << "out of the next incarnation's memory";
  stop = true;
  publishing.join();
}

TEST_F(KillTest, KilledPublishersLeakNothingInAThousandRounds) {
  constexpr int kRounds = 1000;
  Up(1, 64 << 20, 0);
  const std::string socket = state_.nodes[0].socket;
  const v1::NodeStatusReply before = StatusOf(socket);
  for (int round = 0; round < kRounds; ++round) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t doomed = fork();
    ASSERT_GE(doomed, 0);
    if (doomed == 0) {
      dup2(ready[1], STDOUT_FILENO);
      execl(STEM_DOOMED_PUBLISHER, "doomed_publisher", socket.c_str(), nullptr);
      _exit(127);
    }
    close(ready[1]);
    char word = 0;
    ASSERT_EQ(read(ready[0], &word, 1), 1) << "it died before it had reserved";
    close(ready[0]);
    ASSERT_EQ(word, 'R') << "round " << round << ": it was not given the keys, so the last one still had them";
    ASSERT_EQ(kill(doomed, SIGKILL), 0);
    ASSERT_EQ(waitpid(doomed, nullptr, 0), doomed);
  }
  const absl::Time end = absl::Now() + absl::Seconds(10);
  v1::NodeStatusReply after = StatusOf(socket);
  while (after.sessions() > 0 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(5));
    after = StatusOf(socket);
  }
  EXPECT_EQ(after.sessions(), 0u);
  EXPECT_EQ(after.reservations(), 0u);
  EXPECT_EQ(after.staging_bytes(), 0u);
  EXPECT_EQ(after.pins(), 0u);
  EXPECT_EQ(after.blocks_dram(), before.blocks_dram());
  EXPECT_EQ(after.arenas(0).slots_free(), after.arenas(0).slots());
}

}  // namespace
}  // namespace stem
