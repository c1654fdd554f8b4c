// Following an engine over real ZeroMQ sockets, whose other ends do what vLLM's publisher does (vllm/distributed/kv_events.py).
#include "services/node/engine_follower.h"

#include <cstring>
#include <fstream>
#include <sstream>
#include <vector>

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

std::string Number(uint64_t number) {
  const uint64_t big = __builtin_bswap64(number);
  return {reinterpret_cast<const char*>(&big), sizeof(big)};
}

// Batch `number`: block `number` of one long prompt, behind the block before.
std::string Batch(uint64_t number) {
  const auto hash = [](uint64_t n) {
    const std::string text = absl::StrCat("hash ", n);
    return Json::binary(std::vector<uint8_t>(text.begin(), text.end()));
  };
  Json event = {{"type", "BlockStored"}, {"block_hashes", Json::array({hash(number)})}, {"parent_block_hash", nullptr},
                {"token_ids", {number, number, number, number}}, {"block_size", 4}, {"medium", "GPU"}};
  if (number > 0) event["parent_block_hash"] = hash(number - 1);
  const std::vector<uint8_t> bytes = Json::to_msgpack({1.0, Json::array({event}), 0});
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
  void Publish(uint64_t number) { Publish(number, Batch(number)); }

  EngineFollowerOptions options(const std::string& namespace_file) const {
    return {.endpoint = endpoint_, .replay = replay_, .namespace_file = namespace_file};
  }
  std::atomic<uint64_t> count{0};  // batches that were published so far, as the replay knows
  std::atomic<uint64_t> kept{0};
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
    for (number = std::max(__builtin_bswap64(number), kept.load()); number < count; ++number) send(Number(number), Batch(number));
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
  void Register() {
    NamespaceSpec spec{.model = "m", .revision = "r", .kv_dtype = "bf16", .layout = "l", .instruction_set = "vec", .block_tokens = 4};
    spec.parts = {{.id = 0, .head_first = 0, .block_bytes = 8192}, {.id = 1, .head_first = 1, .block_bytes = 8192}};
    ASSERT_TRUE(spaces_->Register(spec, 1000, "").ok());
  }
  void Follow() {
    follower_ = std::make_unique<EngineFollower>(publisher_.options(file_), *spaces_, [](const BlockChange&) {}, log_);
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
      *SpaceTable::Create({.groups = {{.name = "a", .uids = {1000}, .dram_bytes = 1 << 20}}}, std::vector<uint8_t>(32, 7));
  std::ostringstream out_;
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
  follower_.reset();
  const std::string log = out_.str();
  EXPECT_THAT(log, HasSubstr("VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0"));
  EXPECT_EQ(log.find("kv_events_refused"), log.rfind("kv_events_refused"));
}

TEST(EngineFollowerOptionsTest, FlagsAreCheckedByName) {
  EXPECT_TRUE(CheckEngineFollower({}).ok());
  EXPECT_TRUE(CheckEngineFollower({.endpoint = "tcp://*:5557", .replay = "tcp://127.0.0.1:5558", .namespace_file = "f"}).ok());
  EXPECT_THAT(std::string(CheckEngineFollower({.endpoint = "5557", .namespace_file = "f"}).message()), HasSubstr("--kv-events: '5557'"));
  EXPECT_THAT(std::string(CheckEngineFollower({.endpoint = "tcp://*:1"}).message()), HasSubstr("--kv-events-namespace"));
  EXPECT_THAT(std::string(CheckEngineFollower({.replay = "tcp://h:1"}).message()), HasSubstr("need --kv-events"));
}

}  // namespace
}  // namespace stem
