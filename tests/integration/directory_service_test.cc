// The directory over real gRPC, with a node that is only its announce stream.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "httplib.h"
#include "proto/mutex.h"
#include "services/directory/directory.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/listen.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using ::testing::HasSubstr;
using namespace ::stem::testing;  // NOLINT: message builders

using Stub = v1::Directory::Stub;

// Speaks for one node; heartbeats on a thread of its own while `beating`.
class Announcer {
 public:
  Announcer(Stub& stub, const ClusterSecret& secret) {
    secret.AddToken(context_);
    stream_ = stub.Announce(&context_);
  }
  ~Announcer() {
    Kill();
    if (!finished_) Finish();
  }
  bool Send(const v1::AnnounceMessage& message) {
    MutexLock lock(mutex_);
    return stream_->Write(message);
  }
  // Sends and waits for the acknowledgement of `sequence`.
  void SendAndWait(const v1::AnnounceMessage& message, uint64_t sequence) {
    ASSERT_TRUE(Send(message));
    v1::AnnounceReply reply;
    do {
      ASSERT_TRUE(stream_->Read(&reply));
    } while (!reply.has_acknowledge() || reply.acknowledge().sequence() < sequence);
  }
  v1::AnnounceReply Read() {
    v1::AnnounceReply reply;
    EXPECT_TRUE(stream_->Read(&reply));
    return reply;
  }
  void KeepBeating(uint64_t sequence) {
    beater_ = std::thread([this, sequence] {
      while (!killed_ && Send(BeatOf(sequence))) absl::SleepFor(absl::Milliseconds(10));
    });
  }
  // The end of the process: no goodbye.
  void Kill() {
    killed_ = true;
    context_.TryCancel();
    if (beater_.joinable()) beater_.join();
  }
  grpc::Status Finish() {
    v1::AnnounceReply reply;
    while (stream_->Read(&reply)) {
    }
    finished_ = true;
    return stream_->Finish();
  }

 private:
  grpc::ClientContext context_;
  Mutex mutex_;  // of writes
  std::unique_ptr<grpc::ClientReaderWriter<v1::AnnounceMessage, v1::AnnounceReply>> stream_;
  std::atomic<bool> killed_{false};
  std::thread beater_;
  bool finished_ = false;
};

class DirectoryServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(secret_file_) << std::string(32, 's');
    Start();
  }
  ~DirectoryServiceTest() override { std::filesystem::remove(secret_file_); }

  void Start(uint32_t heartbeat_ms = 10'000, uint32_t stale_ms_max = 60'000) {
    auto started = Directory::Start({.listen = "127.0.0.1:0", .http = "127.0.0.1:0", .secret_file = secret_file_,
                                     .heartbeat_ms = heartbeat_ms, .stale_ms_max = stale_ms_max}, log_);
    ASSERT_TRUE(started.ok()) << started.status();
    directory_ = *std::move(started);
    stub_ = v1::Directory::NewStub(grpc::CreateChannel(directory_->listen_address(), grpc::InsecureChannelCredentials()));
  }
  template <typename Request, typename Reply>
  grpc::Status Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*), const Request& request,
                    Reply* reply, const ClusterSecret* secret) {
    grpc::ClientContext context;
    if (secret != nullptr) secret->AddToken(context);
    return ((*stub_).*method)(&context, request, reply);
  }
  v1::MatchReply Match(uint64_t first, uint64_t count) {
    v1::MatchRequest request;
    request.set_namespace_fingerprint(std::string(space_.bytes()));
    request.set_keys(PackKeys(KeysOf(first, count)));
    v1::MatchReply reply;
    const grpc::Status status = Call(&Stub::Match, request, &reply, &secret_);
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(ValidateMatchReply(reply, count).ok());
    return reply;
  }
  v1::DirectoryStatusReply Status() {
    v1::DirectoryStatusReply reply;
    EXPECT_TRUE(Call(&Stub::DirectoryStatus, v1::DirectoryStatusRequest(), &reply, &secret_).ok());
    return reply;
  }
  // Polls: how long it takes is not what is tested, ctest's own limit ends a hang.
  void Await(const std::function<bool()>& condition) {
    while (!condition()) absl::SleepFor(absl::Milliseconds(5));
  }

  const std::string secret_file_ = std::filesystem::temp_directory_path() / absl::StrCat("stem_directory_", getpid());
  const ClusterSecret secret_ = *ClusterSecret::FromBytes(std::vector<uint8_t>(32, 's'));
  const NamespaceFingerprint space_ = SpaceOf(1);
  std::ostringstream out_;
  Logger log_{{.process = "t", .out = &out_}};
  std::unique_ptr<Directory> directory_;
  std::unique_ptr<Stub> stub_;
};

TEST_F(DirectoryServiceTest, AnnouncedBlocksAreMatchedScoredAndCounted) {
  Announcer node(*stub_, secret_);
  node.Send(HelloOf("n1", 7));
  node.SendAndWait(SnapshotOf(3, space_, {Adds(KeysOf(0, 2)), Adds({KeyOf(2)}, v1::TIER_SSD)}), 3);
  node.SendAndWait(BatchOf(4, space_, {Adds({KeyOf(3)}), Removes({KeyOf(3)})}), 5);
  const v1::MatchReply match = Match(0, 5);
  EXPECT_EQ(match.matched_blocks(), 3u);
  ASSERT_EQ(match.runs_size(), 2);
  EXPECT_EQ(match.runs(1).tier(), v1::TIER_SSD);
  ASSERT_EQ(match.holders_size(), 1);
  EXPECT_EQ(match.holders(0).node(), "n1");
  EXPECT_EQ(match.holders(0).incarnation(), 7u);
  ASSERT_EQ(match.misses_size(), 2);
  EXPECT_EQ(match.misses(0).cause(), v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(match.misses(1).cause(), v1::MISS_CAUSE_COLD);
  EXPECT_TRUE(match.truth().exact());

  v1::ScoreRequest request;
  request.set_namespace_fingerprint(std::string(space_.bytes()));
  request.set_keys(PackKeys(KeysOf(0, 5)));
  request.add_candidates("nobody");
  request.add_candidates("n1");
  v1::ScoreReply score;
  ASSERT_TRUE(Call(&Stub::Score, request, &score, &secret_).ok());
  ASSERT_EQ(score.nodes_size(), 2);
  EXPECT_EQ(score.nodes(0).matched_blocks(), 0u);
  EXPECT_EQ(score.nodes(1).dram_blocks(), 2u);
  EXPECT_EQ(score.nodes(1).ssd_blocks(), 1u);

  const v1::DirectoryStatusReply status = Status();
  EXPECT_EQ(status.blocks(), 3u);
  EXPECT_EQ(status.ghosts(), 1u);
  ASSERT_EQ(status.nodes_size(), 1);
  EXPECT_EQ(status.nodes(0).state(), "live");
  EXPECT_EQ(status.nodes(0).sequence(), 5u);

  const HostPort http = *ParseHostPort(directory_->http_address());
  httplib::Client client(http.host, http.port);
  const std::string metrics = client.Get("/metrics")->body;
  for (const char* line : {"stemcache_directory_matches_total{truth=\"exact\"} 1", "stemcache_directory_asked_blocks_total 5",
                           "stemcache_directory_matched_blocks_total 3", "stemcache_directory_index_blocks 3",
                           "stemcache_directory_missed_blocks_total{cause=\"evicted\"} 1", "stemcache_directory_ghosts 1",
                           "stemcache_directory_nodes{state=\"live\"} 1", "stemcache_directory_match_seconds_count 1",
                           "stemcache_directory_changes_applied_total 5",
                           "stemcache_directory_stream_lag_seconds{node=\"n1\"} 0"}) {
    EXPECT_THAT(metrics, HasSubstr(line));
  }
  EXPECT_EQ(client.Get("/healthz")->status, 200);
}

TEST_F(DirectoryServiceTest, GapIsAnsweredWithResync) {
  Announcer node(*stub_, secret_);
  node.Send(HelloOf("n1", 7));
  node.SendAndWait(SnapshotOf(0, space_), 0);
  node.Send(BatchOf(3, space_, {Adds({KeyOf(0)})}));
  const v1::AnnounceReply reply = node.Read();
  EXPECT_EQ(reply.resync().expected(), 1u);
  EXPECT_EQ(reply.resync().received(), 3u);
  EXPECT_EQ(Status().nodes(0).state(), "stale");
}

TEST_F(DirectoryServiceTest, KilledStreamIsStaleAndANewIncarnationEndsIt) {
  Announcer other(*stub_, secret_);
  other.Send(HelloOf("n2", 1));
  other.SendAndWait(SnapshotOf(0, space_), 0);
  auto node = std::make_unique<Announcer>(*stub_, secret_);
  node->Send(HelloOf("n1", 7));
  node->SendAndWait(SnapshotOf(2, space_, {Adds(KeysOf(0, 2))}), 2);
  node.reset();
  Await([&] { return Status().nodes(0).state() == "stale"; });
  v1::MatchReply match = Match(0, 2);
  EXPECT_EQ(match.matched_blocks(), 2u);
  EXPECT_FALSE(match.truth().exact());
  ASSERT_EQ(match.truth().lagging_size(), 1);
  EXPECT_EQ(match.truth().lagging(0).node(), "n1");

  Announcer fresh(*stub_, secret_);
  fresh.Send(HelloOf("n1", 8));
  fresh.SendAndWait(SnapshotOf(0, space_, {Adds({KeyOf(1)}, v1::TIER_SSD)}), 0);
  match = Match(0, 2);
  EXPECT_EQ(match.matched_blocks(), 0u);
  EXPECT_EQ(match.misses(0).cause(), v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(match.misses(1).cause(), v1::MISS_CAUSE_UNREACHABLE);
  EXPECT_TRUE(match.truth().exact());
}

TEST_F(DirectoryServiceTest, BadMessagesAreRefusedInAClearSentence) {
  {
    Announcer node(*stub_, secret_);
    node.Send(BeatOf(0));
    const grpc::Status status = node.Finish();
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), HasSubstr("the first message of a stream must be hello"));
  }
  v1::MatchRequest request;
  v1::MatchReply reply;
  request.set_namespace_fingerprint("short");
  grpc::Status status = Call(&Stub::Match, request, &reply, &secret_);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("the length of namespace_fingerprint is 5; it must be 16 bytes"));
  request.set_namespace_fingerprint(std::string(16, 'n'));
  request.set_keys(std::string(65537 * 16, 'k'));
  status = Call(&Stub::Match, request, &reply, &secret_);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("1 to 65536 keys"));
  request.set_keys(std::string(static_cast<size_t>(kMessageBytesMax) + 1, 'k'));
  EXPECT_EQ(Call(&Stub::Match, request, &reply, &secret_).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(DirectoryServiceTest, CallersWithoutTheSecretAreRefused) {
  const ClusterSecret other = *ClusterSecret::FromBytes(std::vector<uint8_t>(32, 'x'));
  v1::MatchReply match;
  v1::ScoreReply score;
  v1::DirectoryStatusReply status;
  for (const ClusterSecret* secret : {static_cast<const ClusterSecret*>(nullptr), &other}) {
    EXPECT_EQ(Call(&Stub::Match, v1::MatchRequest(), &match, secret).error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(Call(&Stub::Score, v1::ScoreRequest(), &score, secret).error_code(), grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(Call(&Stub::DirectoryStatus, v1::DirectoryStatusRequest(), &status, secret).error_code(),
              grpc::StatusCode::UNAUTHENTICATED);
  }
  Announcer node(*stub_, other);
  EXPECT_EQ(node.Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(DirectoryServiceTest, StopEndsStreamsAndARestartedDirectoryIsRebuiltByItsNodes) {
  Announcer node(*stub_, secret_);
  node.Send(HelloOf("n1", 7));
  node.SendAndWait(SnapshotOf(1, space_, {Adds({KeyOf(0)})}), 1);
  directory_->Stop(absl::Seconds(30));
  EXPECT_FALSE(node.Finish().ok());
  directory_.reset();
  Start();
  EXPECT_EQ(Match(0, 1).misses(0).cause(), v1::MISS_CAUSE_UNKNOWN);
  Announcer again(*stub_, secret_);
  again.Send(HelloOf("n1", 7, 3'600'000));
  again.SendAndWait(SnapshotOf(1, space_, {Adds({KeyOf(0)})}), 1);
  const v1::MatchReply match = Match(0, 2);
  EXPECT_EQ(match.matched_blocks(), 1u);
  EXPECT_EQ(match.misses(0).cause(), v1::MISS_CAUSE_UNKNOWN) << "its ghosts do not reach back";
}

// Waits in a thread of its own: the answer of an Intend that is told to wait.
class Waiter {
 public:
  Waiter(Stub& stub, const ClusterSecret& secret, const v1::IntendRequest& request) {
    secret.AddToken(context_);
    thread_ = std::thread([this, &stub, request] { status_ = stub.Intend(&context_, request, &reply_); });
  }
  ~Waiter() {
    context_.TryCancel();
    if (thread_.joinable()) thread_.join();
  }
  void Cancel() { context_.TryCancel(); }
  const v1::IntendReply& Join() {
    thread_.join();
    return reply_;
  }
  const grpc::Status& status() const { return status_; }

 private:
  grpc::ClientContext context_;
  v1::IntendReply reply_;
  grpc::Status status_;
  std::thread thread_;
};

TEST_F(DirectoryServiceTest, OneComputesOthersAreToldNotYetAndWakeWhenItIsAnnounced) {
  auto node = std::make_unique<Announcer>(*stub_, secret_);
  node->Send(HelloOf("n1", 7));
  node->SendAndWait(SnapshotOf(0, space_), 0);
  v1::IntendRequest request;
  request.set_namespace_fingerprint(std::string(space_.bytes()));
  request.set_keys(PackKeys(KeysOf(0, 4)));
  request.set_requester("n1");
  request.set_duration_ms(60'000);
  v1::IntendReply reply;
  ASSERT_TRUE(Call(&Stub::Intend, request, &reply, &secret_).ok());
  EXPECT_TRUE(reply.granted());
  EXPECT_EQ(Call(&Stub::Intend, request, &reply, nullptr).error_code(), grpc::StatusCode::UNAUTHENTICATED);

  request.set_requester("n2");
  ASSERT_TRUE(Call(&Stub::Intend, request, &reply, &secret_).ok());
  EXPECT_FALSE(reply.granted());
  EXPECT_EQ(reply.holder(), "n1");
  EXPECT_GT(reply.estimate_ms(), 0u);
  const v1::MatchReply labelled = Match(0, 6);
  ASSERT_EQ(labelled.misses_size(), 2);
  EXPECT_EQ(labelled.misses(0).cause(), v1::MISS_CAUSE_NOT_YET);
  EXPECT_EQ(labelled.misses(0).count(), 4u);
  EXPECT_GT(labelled.misses(0).estimate_ms(), 0u);
  EXPECT_EQ(labelled.misses(1).cause(), v1::MISS_CAUSE_COLD);

  request.set_wait_ms(1);
  ASSERT_TRUE(Call(&Stub::Intend, request, &reply, &secret_).ok());
  EXPECT_GT(reply.estimate_ms(), 0u) << "the wait ended, the other's time has not";
  request.set_wait_ms(60'000);
  Waiter gone(*stub_, secret_, request);
  Waiter waiter(*stub_, secret_, request);
  gone.Cancel();
  gone.Join();
  EXPECT_EQ(gone.status().error_code(), grpc::StatusCode::CANCELLED);
  node->SendAndWait(BatchOf(1, space_, {Adds(KeysOf(0, 4))}), 4);
  EXPECT_EQ(waiter.Join().estimate_ms(), 0u);
  EXPECT_TRUE(waiter.status().ok()) << waiter.status().error_message();
  EXPECT_EQ(Match(0, 4).matched_blocks(), 4u) << "who was woken finds it";

  // A node that dies computes no more: the next who asks does.
  request.set_keys(PackKeys(KeysOf(100, 4)));
  request.set_requester("n1");
  request.set_wait_ms(0);
  ASSERT_TRUE(Call(&Stub::Intend, request, &reply, &secret_).ok());
  ASSERT_TRUE(reply.granted());
  request.set_requester("n2");
  node.reset();
  Await([&] { return Call(&Stub::Intend, request, &reply, &secret_).ok() && reply.granted(); });
  // A directory that stops lets go of those who wait.
  request.set_requester("n3");
  request.set_wait_ms(60'000);
  Waiter last(*stub_, secret_, request);
  directory_->Stop(absl::Seconds(30));
  last.Join();
}

// Nodes announce, match and die at once: for TSan, and that nothing hangs.
TEST_F(DirectoryServiceTest, MatchesWhileBatchesApplyAndStreamsBreak) {
  std::atomic<bool> stop{false};
  std::thread matcher([&] {
    while (!stop) Match(0, 200);
  });
  std::vector<std::thread> nodes;
  for (int n = 0; n < 2; ++n) {
    nodes.emplace_back([&, n] {
      for (uint64_t life = 1; life <= 5; ++life) {
        Announcer node(*stub_, secret_);
        node.Send(HelloOf(absl::StrCat("n", n), life));
        node.SendAndWait(SnapshotOf(200, space_, {Adds(KeysOf(0, 200))}), 200);
        node.KeepBeating(0);
        for (uint64_t i = 0; i < 20; ++i) {
          node.SendAndWait(BatchOf(201 + 10 * i, space_, {Removes(KeysOf(10 * i, 5)), Adds(KeysOf(10 * i, 5))}), 210 + 10 * i);
        }
      }
    });
  }
  for (std::thread& node : nodes) node.join();
  stop = true;
  matcher.join();
  EXPECT_EQ(Match(0, 200).matched_blocks(), 200u);
}

TEST_F(DirectoryServiceTest, KilledNodeIsLostAndItsBlocksSaySo) {
  directory_.reset();
  Start(20, 300);
  Announcer other(*stub_, secret_);
  other.Send(HelloOf("n2", 1));
  other.SendAndWait(SnapshotOf(0, space_), 0);
  other.KeepBeating(0);
  auto node = std::make_unique<Announcer>(*stub_, secret_);
  node->Send(HelloOf("n1", 7));
  node->SendAndWait(SnapshotOf(2, space_, {Adds(KeysOf(0, 2))}), 2);
  node.reset();
  Await([&] { return Status().nodes(0).state() == "lost" && Status().blocks() == 0; });
  const v1::MatchReply match = Match(0, 2);
  EXPECT_EQ(match.matched_blocks(), 0u);
  ASSERT_EQ(match.misses_size(), 1);
  EXPECT_EQ(match.misses(0).cause(), v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(Status().nodes(1).address().node(), "n2");
}

}  // namespace
}  // namespace stem
