// The stub over real gRPC, against directories that do as they are told: answer, label, err, or say nothing.
#include "client/directory_stub.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

absl::Time In(absl::Duration time) { return absl::Now() + time; }

enum class Mode { kExact, kStale, kSilent, kBroken, kRefusing };

// Synchronous handlers: what gRPC's callback handlers hand from thread to thread cannot be seen by ThreadSanitizer.
class ScriptedDirectory final : public v1::Directory::Service {
 public:
  explicit ScriptedDirectory(uint32_t matched, Mode mode = Mode::kExact) : matched_(matched), mode_(mode) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
  }
  ~ScriptedDirectory() override { Kill(); }

  const std::string& address() const { return address_; }
  int matches() const { return matches_; }
  int scores() const { return scores_; }
  void Say(Mode mode) { mode_ = mode; }
  void Kill() { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Match(grpc::ServerContext* context, const v1::MatchRequest* request, v1::MatchReply* reply) override {
    ++matches_;
    const auto blocks = static_cast<uint32_t>(request->keys().size() / sizeof(BlockKey));
    reply->set_matched_blocks(matched_);
    if (matched_ > 0) {
      reply->add_runs()->set_count(matched_);
      reply->add_holders()->set_node("n");
      reply->mutable_holders(0)->set_incarnation(1);
      reply->mutable_holders(0)->set_peer_address("n:1");
    }
    if (matched_ < blocks) {
      v1::Miss* const miss = reply->add_misses();
      miss->set_first(matched_);
      miss->set_count(blocks - matched_);
    }
    return End(*context, reply);
  }
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request, v1::ScoreReply* reply) override {
    ++scores_;
    for (const std::string& candidate : request->candidates()) reply->add_nodes()->set_node(candidate);
    return End(*context, reply);
  }
  grpc::Status Intend(grpc::ServerContext* context, const v1::IntendRequest*, v1::IntendReply* reply) override {
    reply->set_granted(true);
    return End(*context, reply);
  }

 private:
  // Ends now, or with the call's deadline.
  template <typename Reply>
  grpc::Status End(const grpc::ServerContext& context, Reply* reply) const {
    const Mode mode = mode_;
    if constexpr (requires { reply->mutable_truth(); }) reply->mutable_truth()->set_exact(mode != Mode::kStale);
    if (mode == Mode::kBroken) return grpc::Status(grpc::StatusCode::INTERNAL, "broken");
    if (mode == Mode::kRefusing) return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "refused");
    while (mode == Mode::kSilent && !context.IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return mode == Mode::kSilent ? grpc::Status::CANCELLED : grpc::Status::OK;
  }

  const uint32_t matched_;
  std::atomic<Mode> mode_;
  std::atomic<int> matches_{0};
  std::atomic<int> scores_{0};
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

// Takes connections and never says a word.
class BlackHole {
 public:
  BlackHole() : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    EXPECT_EQ(bind(socket_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(socket_, 64), 0);
    EXPECT_EQ(getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    address_ = absl::StrCat("127.0.0.1:", ntohs(address.sin_port));
  }
  ~BlackHole() { close(socket_); }
  const std::string& address() const { return address_; }

 private:
  const int socket_;
  std::string address_;
};

class DirectoryStubTest : public ::testing::Test {
 protected:
  explicit DirectoryStubTest(absl::Duration second_opinion_max = absl::Milliseconds(20))
      : keys_(KeysOf(0, 5)),
        stub_({.requester = "me",
               .authorize = [](grpc::ClientContext&) {},
               .host = "",
               .second_opinion_max = second_opinion_max}) {}

  void Use(const std::vector<std::string>& addresses) { ASSERT_TRUE(stub_.SetDirectories(addresses).ok()); }
  absl::StatusOr<v1::MatchReply> Match(absl::Duration time = absl::Seconds(20), const std::string& first = "") {
    return stub_.Match({.space = SpaceOf(1), .keys = keys_, .parts = {}, .first = first}, In(time));
  }
  // Blocks matched, which tells who answered.
  uint32_t Matched(absl::Duration time = absl::Seconds(20)) {
    const absl::StatusOr<v1::MatchReply> reply = Match(time);
    EXPECT_TRUE(reply.ok()) << reply.status();
    return reply.ok() ? reply->matched_blocks() : UINT32_MAX;
  }

  const std::vector<BlockKey> keys_;
  DirectoryStub stub_;
};

TEST_F(DirectoryStubTest, NobodyToAskIsUnavailableAtOnce) {
  EXPECT_TRUE(absl::IsUnavailable(Match().status()));
  EXPECT_TRUE(absl::IsInvalidArgument(stub_.SetDirectories(std::vector<std::string>(65, "x:1"))));
}

TEST_F(DirectoryStubTest, BlackHoleAndDeadOneCostNoneOfTheDeadlinesAnswers) {
  BlackHole hole;
  ScriptedDirectory dead(1);
  dead.Kill();
  ScriptedDirectory good(3);
  Use({hole.address(), dead.address(), good.address()});
  EXPECT_EQ(Match(absl::Minutes(2), hole.address())->matched_blocks(), 3u);
  EXPECT_GE(stub_.stats().hedges, 1u) << "the silent one is not waited for";
  EXPECT_EQ(Match(absl::Minutes(2), dead.address())->matched_blocks(), 3u);
  EXPECT_EQ(good.matches(), 2);
  const std::vector<DirectoryChoice::State> status = stub_.Status();
  EXPECT_TRUE(status[0].down && status[1].down) << "both are remembered";
  for (int i = 0; i < 20; ++i) EXPECT_EQ(Matched(absl::Minutes(2)), 3u);
  EXPECT_EQ(good.matches(), 22);
  EXPECT_EQ(stub_.stats().unanswered, 0u);
}

TEST_F(DirectoryStubTest, SilentDirectoriesEndWithTheDeadline) {
  ScriptedDirectory one(1, Mode::kSilent);
  ScriptedDirectory two(2, Mode::kSilent);
  Use({one.address(), two.address()});
  const absl::Time deadline = In(absl::Milliseconds(100));
  EXPECT_TRUE(absl::IsUnavailable(Match(absl::Milliseconds(100)).status()));
  EXPECT_GE(absl::Now(), deadline);
  EXPECT_EQ(one.matches() + two.matches(), 2) << "each was asked once";
  one.Say(Mode::kExact);
  EXPECT_EQ(Matched(), 1u) << "a silence is not for ever";
}

TEST_F(DirectoryStubTest, ErrorsGoToTheNextAtOnceAndRefusalsToTheCaller) {
  ScriptedDirectory broken(1, Mode::kBroken);
  ScriptedDirectory nonsense(6);  // of five blocks
  ScriptedDirectory good(3);
  Use({broken.address(), nonsense.address(), good.address()});
  EXPECT_EQ(Match(absl::Seconds(20), broken.address())->matched_blocks(), 3u);
  EXPECT_GE(stub_.stats().failovers, 1u);
  EXPECT_EQ(Match(absl::Seconds(20), nonsense.address())->matched_blocks(), 3u);
  EXPECT_GE(stub_.stats().failovers, 2u);
  ScriptedDirectory refusing(1, Mode::kRefusing);
  Use({refusing.address(), good.address()});
  const absl::Status refused = Match(absl::Seconds(20), refusing.address()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
}

// Waits for second opinions as long as a slow machine needs.
class PatientDirectoryStubTest : public DirectoryStubTest {
 protected:
  PatientDirectoryStubTest() : DirectoryStubTest(absl::Seconds(20)) {}
};

TEST_F(PatientDirectoryStubTest, StaleAnswerIsGivenOnlyWhenNobodyIsExact) {
  ScriptedDirectory stale(5, Mode::kStale);
  ScriptedDirectory exact(3);
  Use({stale.address(), exact.address()});
  EXPECT_EQ(Match(absl::Seconds(20), stale.address())->matched_blocks(), 3u);
  const DirectoryStubStats before = stub_.stats();
  EXPECT_EQ(before.second_opinions + before.hedges, 1u) << "on a slow machine the other was asked before the first answered";
  EXPECT_LE(stale.matches(), 1);
  exact.Say(Mode::kStale);
  EXPECT_EQ(Matched(), 3u) << "the other is known to be stale";
  EXPECT_EQ(stub_.stats().second_opinions, before.second_opinions) << "and is not asked for its opinion again";
}

TEST_F(DirectoryStubTest, SilentSecondOpinionIsNotWaitedFor) {
  ScriptedDirectory stale(5, Mode::kStale);
  BlackHole hole;
  Use({stale.address(), hole.address()});
  const absl::StatusOr<v1::MatchReply> reply = Match(absl::Minutes(2), stale.address());
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->matched_blocks(), 5u);
  EXPECT_FALSE(reply->truth().exact());
}

TEST_F(DirectoryStubTest, DirectoryThatIsWellAgainIsFoundWhileOthersAnswer) {
  ScriptedDirectory good(3);
  ScriptedDirectory back(4, Mode::kBroken);
  Use({back.address(), good.address()});
  EXPECT_EQ(Match(absl::Seconds(20), back.address())->matched_blocks(), 3u);
  back.Say(Mode::kExact);
  const auto down = [&] {
    const std::vector<DirectoryChoice::State> status = stub_.Status();
    return status[0].down;
  };
  while (down()) {  // ctest's limit ends a hang
    EXPECT_NE(Matched(), UINT32_MAX);
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_GT(back.scores(), 0) << "by probes";
}

TEST_F(DirectoryStubTest, ScoreNamesEveryCandidateInOrder) {
  ScriptedDirectory good(3);
  Use({good.address()});
  const std::vector<std::string> candidates = {"b", "a"};
  const auto reply = stub_.Score({.space = SpaceOf(1), .keys = keys_, .parts = {}, .first = {}}, candidates, In(absl::Seconds(20)));
  ASSERT_TRUE(reply.ok()) << reply.status();
  EXPECT_EQ(reply->nodes(0).node(), "b");
  EXPECT_EQ(reply->nodes(1).node(), "a");
}

TEST_F(DirectoryStubTest, IntentsPassABlackHoleAndADeadOne) {
  BlackHole hole;
  ScriptedDirectory dead(1);
  dead.Kill();
  ScriptedDirectory good(3);
  Use({hole.address(), dead.address(), good.address()});
  for (uint64_t route = 0; route < 8; ++route) {
    v1::IntendRequest request;
    request.set_namespace_fingerprint(std::string(16, 'n'));
    request.set_keys(PackKeys(keys_));
    Mutex mutex;
    CondVar answered;
    bool done = false;
    absl::StatusOr<DirectoryStub::Intended> intended;
    stub_.Intend({.request = request, .route = route << 60, .at = {}}, In(absl::Seconds(20)),
                 [&](absl::StatusOr<DirectoryStub::Intended> result) {
                   MutexLock lock(mutex);
                   intended = std::move(result);
                   done = true;
                   answered.NotifyAll();
                 });
    MutexLock lock(mutex);
    while (!done) answered.Wait(mutex);
    ASSERT_TRUE(intended.ok()) << intended.status();
    EXPECT_TRUE(intended->reply.granted());
    EXPECT_EQ(intended->directory, good.address());
  }
}

TEST_F(DirectoryStubTest, CallsEndWhenTheStubDoes) {
  BlackHole hole;
  std::atomic<bool> ended{false};
  {
    DirectoryStub stub({.requester = "me", .authorize = [](grpc::ClientContext&) {}, .host = ""});
    ASSERT_TRUE(stub.SetDirectories({hole.address()}).ok());
    v1::IntendRequest request;
    request.set_wait_ms(60'000);
    stub.Intend({.request = request, .route = 0, .at = {}}, In(absl::Hours(1)),
                [&](const absl::StatusOr<DirectoryStub::Intended>& result) { ended = !result.ok(); });
  }
  EXPECT_TRUE(ended);
}

// The list changes, directories fall silent and come back while requests run: none fails, as one is always well.
TEST_F(DirectoryStubTest, ListChangesWhileRequestsRun) {
  ScriptedDirectory steady(3);
  ScriptedDirectory moody(3);
  BlackHole hole;
  Use({steady.address()});
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      while (!stop) {
        EXPECT_EQ(Matched(absl::Seconds(30)), 3u);
        ++answered;
      }
    });
  }
  const std::vector<std::vector<std::string>> lists = {{moody.address(), steady.address()},
                                                       {steady.address(), hole.address()},
                                                       {hole.address(), steady.address(), moody.address()},
                                                       {steady.address()}};
  for (int round = 0; round < 24; ++round) {
    const int before = answered;
    moody.Say(static_cast<Mode>(round % 4));
    Use(lists[round % lists.size()]);
    while (answered < before + 8) std::this_thread::yield();
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(stub_.stats().unanswered, 0u);
}

}  // namespace
}  // namespace stem
