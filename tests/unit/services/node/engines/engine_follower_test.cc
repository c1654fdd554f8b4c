// Following an engine over real ZeroMQ sockets, whose other ends do what vLLM's publisher does (vllm/distributed/kv_events.py).
#include "services/node/engines/engine_follower.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/temp_directory.h"
#include "zmq.hpp"

namespace stem {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;

template <typename Holds>
void Until(Holds holds) {
  const absl::Time end = absl::Now() + absl::Seconds(30);
  while (!holds()) {
    ASSERT_LT(absl::Now(), end) << "it never came";
    absl::SleepFor(absl::Milliseconds(2));
  }
}

// One that nobody uses now.
uint16_t FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

std::string Number(uint64_t number) {
  const uint64_t big = __builtin_bswap64(number);
  return {reinterpret_cast<const char*>(&big), sizeof(big)};
}

// Batch `number` of an engine that began at `life`: block `number` of one long prompt, behind the block before.
std::string Batch(uint64_t number, double life = 1) {
  const auto hash = [life](uint64_t n) {
    const std::string text = absl::StrCat("hash ", n, " of life ", life);
    return Json::binary(std::vector<uint8_t>(text.begin(), text.end()));
  };
  Json event = {{"type", "BlockStored"}, {"block_hashes", Json::array({hash(number)})}, {"parent_block_hash", nullptr},
                {"token_ids", {number, number, number, number}}, {"block_size", 4}, {"medium", "GPU"}};
  if (number > 0) event["parent_block_hash"] = hash(number - 1);
  const std::vector<uint8_t> bytes = Json::to_msgpack({life + static_cast<double>(number) / 1024, Json::array({event}), 0});
  return {bytes.begin(), bytes.end()};
}

// vLLM's publisher: it binds both sockets, and has the batches from `kept` on.
class Publisher {
 public:
  explicit Publisher(const std::string& folder)
      : endpoint_(absl::StrCat("ipc://", folder, "/events")), replay_(absl::StrCat("ipc://", folder, "/replay")) {
    publish_.bind(endpoint_);
    answer_.bind(replay_);
    answer_.set(zmq::sockopt::rcvtimeo, 20);
    thread_ = std::thread([this] {
      while (!stopping_) Answer();
    });
  }
  ~Publisher() {
    stopping_ = true;
    thread_.join();
  }

  void Publish(uint64_t number, const std::string& payload) {
    publish_.send(zmq::str_buffer("kv"), zmq::send_flags::sndmore);
    publish_.send(zmq::buffer(Number(number)), zmq::send_flags::sndmore);
    publish_.send(zmq::buffer(payload));
  }
  void Publish(uint64_t number) { Publish(number, Batch(number, life)); }

  EngineFollowerOptions options(const std::string& namespace_file) const {
    return {.endpoint = endpoint_, .replay = replay_, .namespace_file = namespace_file};
  }
  std::atomic<uint64_t> count{0};  // batches that were published so far, as the replay knows
  std::atomic<uint64_t> kept{0};
  std::atomic<double> life{1};
  std::atomic<int> asked{0};

 private:
  void Answer() {
    zmq::message_t who, empty, first;
    if (!answer_.recv(who).has_value()) return;
    EXPECT_TRUE(answer_.recv(empty).has_value() && answer_.recv(first).has_value());
    uint64_t number = 0;
    std::memcpy(&number, first.data(), sizeof(number));
    ++asked;
    const auto send = [&](const std::string& at, const std::string& payload) {
      zmq::message_t to(who.data(), who.size());
      answer_.send(to, zmq::send_flags::sndmore);
      answer_.send(zmq::message_t(), zmq::send_flags::sndmore);
      answer_.send(zmq::str_buffer("kv"), zmq::send_flags::sndmore);
      answer_.send(zmq::buffer(at), zmq::send_flags::sndmore);
      answer_.send(zmq::buffer(payload));
    };
    for (number = std::max(__builtin_bswap64(number), kept.load()); number < count; ++number) send(Number(number), Batch(number, life));
    send(Number(UINT64_MAX), "");
  }

  const std::string endpoint_, replay_;
  zmq::context_t context_;
  zmq::socket_t publish_{context_, zmq::socket_type::pub};
  zmq::socket_t answer_{context_, zmq::socket_type::router};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

class EngineFollowerTest : public ::testing::Test {
 protected:
  EngineFollowerTest() {
    std::ofstream(file_) << R"({"model": "m", "revision": "r", "kv_dtype": "bf16", "layout": "l", "instruction_set": "vec", "block_tokens": 4,
                                "hash_scheme": "xxh3", "parts": [8192, 8192]})";
  }
  // As the engine's connector does.
  void Register(uid_t user = getuid(), const std::string& kv_dtype = "bf16") {
    NamespaceSpec spec{.model = "m", .revision = "r", .kv_dtype = kv_dtype, .layout = "l", .instruction_set = "vec", .block_tokens = 4};
    spec.parts = {{.id = 0, .head_first = 0, .block_bytes = 8192}, {.id = 1, .head_first = 1, .block_bytes = 8192}};
    ASSERT_TRUE(spaces_->Register(spec, user, "").ok());
  }
  void Follow() {
    follower_ = std::make_unique<EngineFollower>(publisher_.options(file_), *spaces_, [](const BlockChange&) {}, log_);
  }
  std::string logged() const {
    std::ifstream in(log_file_);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  uint64_t blocks() const { return follower_->stats().blocks; }
  double Counted(const std::string& what) const {
    MetricsPage page;
    follower_->Fill(page);
    return page.Value(absl::StrCat("stemcache_node_engine_", what));
  }

  TempDirectory directory_;
  const std::string file_ = directory_.path() + "/namespace.json";
  Publisher publisher_{directory_.path()};
  std::unique_ptr<SpaceTable> spaces_ =
      *SpaceTable::Create({.groups = {{.name = "a", .uids = {getuid() + 1}, .dram_bytes = 1 << 20},
                                      {.name = "b", .uids = {getuid()}, .dram_bytes = 1 << 20}}},
                          std::vector<uint8_t>(32, 7));
  const std::string log_file_ = directory_.path() + "/log";
  std::ofstream out_{log_file_};
  Logger log_{{.process = "test", .out = &out_}};
  std::unique_ptr<EngineFollower> follower_;
};

TEST_F(EngineFollowerTest, WhatWasPublishedBeforeAndWhatComesIsFollowed) {
  publisher_.count = 5;
  Register();
  Follow();
  Until([&] { return blocks() == 5; });
  EXPECT_EQ(Counted("event_replayed_batches_total"), 5);
  for (uint64_t number = 5; number < 9; ++number) {
    publisher_.count = number + 1;
    publisher_.Publish(number);
  }
  Until([&] { return blocks() == 9; });
  EXPECT_EQ(Counted("event_lost_batches_total"), 0);
  size_t snapshot = 0;
  follower_->Snapshot([&](const BlockChange&) { ++snapshot; });
  EXPECT_EQ(snapshot, 9u);
}

TEST_F(EngineFollowerTest, AGapIsReplayed) {
  Register();
  Follow();
  Until([&] { return publisher_.asked == 1; });
  publisher_.count = 6;
  Until([&] {  // a subscription takes its time
    publisher_.Publish(5);
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 6;
  });
  EXPECT_EQ(Counted("event_replayed_batches_total"), 6);
  EXPECT_EQ(Counted("event_lost_batches_total"), 0);
}

TEST_F(EngineFollowerTest, WhatIsKeptNoLongerIsForgotten) {
  publisher_.count = 4;
  Register();
  Follow();
  Until([&] { return blocks() == 4; });
  publisher_.kept = 9;
  publisher_.count = 9;
  Until([&] {
    publisher_.Publish(10, Batch(0));  // a prompt's first block
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 1;
  });
  EXPECT_EQ(Counted("event_lost_batches_total"), 6);
}

TEST_F(EngineFollowerTest, AnEngineThatStartsAnewIsEmpty) {
  publisher_.count = 4;
  Register();
  Follow();
  Until([&] { return blocks() == 4; });
  Until([&] {
    publisher_.Publish(4);
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 5;
  });
  publisher_.count = 1;
  publisher_.Publish(0);
  Until([&] { return blocks() == 1; });
}

TEST_F(EngineFollowerTest, AnEngineThatStartsAnewWhileNothingIsHeardIsEmpty) {
  publisher_.count = 4;
  Register();
  Follow();
  Until([&] { return blocks() == 4; });
  publisher_.life = 2;
  publisher_.count = 1;
  Until([&] {
    publisher_.Publish(0);
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 1;
  });
  EXPECT_EQ(Counted("removed_blocks_total"), 0) << "they went with their engine";
}

TEST_F(EngineFollowerTest, AfterAGapAnotherLifeOfTheEngineIsReplayedFromItsBegin) {
  publisher_.count = 4;
  Register();
  Follow();
  Until([&] { return blocks() == 4; });
  publisher_.life = 2;
  publisher_.count = 8;
  Until([&] {
    publisher_.Publish(7);
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 8;
  });
  EXPECT_EQ(Counted("event_lost_batches_total"), 0);
  EXPECT_THAT(logged(), HasSubstr("kv_events_restarted"));
}

TEST_F(EngineFollowerTest, TheNamespaceIsOfTheGroupWhoseUserWroteTheFile) {
  publisher_.count = 2;
  Register(getuid() + 1);  // another tenant, with the same model
  Follow();
  EXPECT_EQ(Counted("followed"), 0);
  absl::SleepFor(absl::Milliseconds(300));
  EXPECT_EQ(blocks(), 0u);
  Register();
  Until([&] { return blocks() == 2; });
  EXPECT_EQ(Counted("followed"), 1);
  const auto is_b = [](const Space* space) { return space->memory->group.name == "b"; };
  const std::vector<const Space*> all = spaces_->All();
  const Space* const b = *std::find_if(all.begin(), all.end(), is_b);
  follower_->Snapshot([&](const BlockChange& change) { EXPECT_EQ(change.name.space, EngineCacheOf(b->fingerprint)); });
}

TEST_F(EngineFollowerTest, WhyItWaitsIsLoggedOnceUntilItChanges) {
  const std::string written = file_ + ".later";
  ASSERT_EQ(rename(file_.c_str(), written.c_str()), 0);
  Follow();
  const auto waits = [&](const std::string& why) {
    Until([&] { return absl::StrContains(logged(), why); });
  };
  waits("No such file");
  std::ofstream(file_) << "{";
  waits("is no JSON object");
  std::ofstream(file_) << R"({"model": "m", "parts": [{"block_bytes": 8192, "id": 0, "window_tokens": 511}]})";
  waits("of an engine with sliding windows, whose events are not followed");
  ASSERT_EQ(rename(written.c_str(), file_.c_str()), 0);
  waits("group b has registered no namespace yet");
  Register(getuid(), "fp8");
  waits("kv_dtype (fp8, bf16)");
  absl::SleepFor(absl::Milliseconds(1200));
  Register();
  Until([&] { return Counted("followed") == 1; });
  const std::string log = logged();
  EXPECT_EQ(log.find("kv_dtype (fp8, bf16)"), log.rfind("kv_dtype (fp8, bf16)"));
}

TEST_F(EngineFollowerTest, TheNamespaceMayComeLaterAndCutHashesAreToldOnce) {
  publisher_.count = 2;
  Follow();
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(blocks(), 0u);
  Register();
  Until([&] { return blocks() == 2; });
  const std::vector<uint8_t> bytes =
      Json::to_msgpack({1.0, Json::array({{{"type", "BlockRemoved"}, {"block_hashes", {12345}}, {"medium", "GPU"}}}), 0});
  for (uint64_t number = 2; Counted("event_refused_batches_total") < 2; ++number) {
    publisher_.count = number;
    publisher_.Publish(number, {bytes.begin(), bytes.end()});
    absl::SleepFor(absl::Milliseconds(10));
  }
  const std::string log = logged();
  EXPECT_THAT(log, HasSubstr("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0"));
  EXPECT_EQ(log.find("kv_events_refused"), log.rfind("kv_events_refused"));
}

TEST(EngineFollowerOptionsTest, FlagsAreCheckedByName) {
  EXPECT_TRUE(CheckEngineFollower({}).ok());
  EXPECT_TRUE(CheckEngineFollower({.endpoint = "tcp://*:5557", .replay = "tcp://127.0.0.1:5558", .namespace_file = "f"}).ok());
  EXPECT_THAT(std::string(CheckEngineFollower({.endpoint = "5557", .namespace_file = "f"}).message()), HasSubstr("--kv-events: '5557'"));
  EXPECT_THAT(std::string(CheckEngineFollower({.endpoint = "tcp://*:1"}).message()), HasSubstr("--kv-events-namespace"));
  EXPECT_THAT(std::string(CheckEngineFollower({.replay = "tcp://h:1"}).message()), HasSubstr("need --kv-events"));
  EXPECT_THAT(std::string(CheckEngineFollower({.endpoint = "tcp://*:0", .namespace_file = "f"}).message()), HasSubstr("'tcp://*:0'"));
}

TEST(EngineFollowerOptionsTest, TheNodeListensWhereVllmConnects) {
  for (const char* bound : {"", "tcp://*:5557", "tcp://[::]:5557", "tcp://[::1]:5557", "ipc:///run/events"}) {
    EXPECT_FALSE(ListenAddressOf({.endpoint = bound}).has_value()) << bound;
  }
  EXPECT_EQ(ListenAddressOf({.endpoint = "tcp://0.0.0.0:5557"})->ToString(), "0.0.0.0:5557");
  EXPECT_EQ(ListenAddressOf({.endpoint = "tcp://localhost:5557"})->ToString(), "localhost:5557");
}

// An engine that connects, as vLLM does where its endpoint is one address.
TEST_F(EngineFollowerTest, AnEngineThatConnectsIsListenedTo) {
  Register();
  const uint16_t port = FreePort();
  EngineFollowerOptions options{.endpoint = absl::StrCat("tcp://localhost:", port), .replay = "", .namespace_file = file_};
  follower_ = std::make_unique<EngineFollower>(options, *spaces_, [](const BlockChange&) {}, log_);
  zmq::context_t context;
  zmq::socket_t engine(context, zmq::socket_type::pub);
  engine.set(zmq::sockopt::linger, 0);
  engine.connect(absl::StrCat("tcp://127.0.0.1:", port));
  Until([&] {
    engine.send(zmq::str_buffer("kv"), zmq::send_flags::sndmore);
    engine.send(zmq::buffer(Number(0)), zmq::send_flags::sndmore);
    engine.send(zmq::buffer(Batch(0)));
    absl::SleepFor(absl::Milliseconds(10));
    return blocks() == 1;
  });
}

}  // namespace
}  // namespace stem
