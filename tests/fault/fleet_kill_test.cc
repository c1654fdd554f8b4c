// Directories and nodes killed, or stopped like a black hole, while others go on: what was announced stays found, and nobody who
// waits for another's work hangs.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "client/cache_client.h"
#include "gmock/gmock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "nlohmann/json.hpp"
#include "proto/miss_cause.h"
#include "proto/mutex.h"
#include "services/ctl/process.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "tests/support/publishing.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;

constexpr uint64_t kBlockBytes = 4096;

class FleetKillTest : public ::testing::Test {
 protected:
  struct Member {
    ProcessIdentity process;
    std::string address;
    std::string http;
  };

  FleetKillTest() {
    std::ofstream(secret_file()) << std::string(32, 's');
    for (size_t i = 0; i < 2; ++i) StartDirectory(i, "127.0.0.1:0");
    for (size_t i = 0; i < 2; ++i) {
      nodes_[i] = Start(absl::StrCat("node-", i), "peer",
                        {absl::StrCat(STEM_BINARIES, "/stem-node"), "--name", absl::StrCat("node-", i), "--socket", socket(i),
                         "--listen", "127.0.0.1:0", "--dram", "16MiB", "--directory",
                         absl::StrCat(directories_[0].address, ",", directories_[1].address)});
    }
    for (size_t i = 0; i < 2; ++i) clients_[i] = Connect(i);
    Settle();
  }
  ~FleetKillTest() override {
    for (const auto* members : {&nodes_, &directories_}) {
      for (const Member& member : *members) {
        (void)Signal(member.process, SIGCONT);
        EXPECT_TRUE(Stop(member.process, absl::Seconds(20)).ok());
      }
    }
  }

  std::string secret_file() const { return path_.path() + "/secret"; }
  std::string socket(size_t i) const { return absl::StrCat(path_.path(), "/", i, ".sock"); }

  Member Start(const std::string& name, const char* address_key, std::vector<std::string> command) {
    const std::string ready = absl::StrCat(path_.path(), "/", name, ".ready");
    std::remove(ready.c_str());
    command.insert(command.end(), {"--http", "127.0.0.1:0", "--secret-file", secret_file(), "--ready-file", ready});
    const absl::StatusOr<ProcessIdentity> process = StartDetached(command, absl::StrCat(path_.path(), "/", name, ".log"));
    EXPECT_TRUE(process.ok()) << process.status();
    while (true) {  // ctest's limit ends a hang
      std::ifstream file(ready);
      const auto json = nlohmann::json::parse(file, nullptr, false);
      if (json.is_object()) {
        return {.process = *process, .address = json[address_key].get<std::string>(), .http = json["http"].get<std::string>()};
      }
      EXPECT_FALSE(WaitForEnd(*process, absl::Milliseconds(5))) << name << " did not start";
    }
  }
  void StartDirectory(size_t i, const std::string& listen) {
    directories_[i] = Start(absl::StrCat("directory-", i), "listen",
                            {absl::StrCat(STEM_BINARIES, "/stem-directory"), "--listen", listen});
  }
  void Kill(const Member& member) {
    ASSERT_TRUE(Signal(member.process, SIGKILL).ok());
    ASSERT_TRUE(WaitForEnd(member.process, absl::Seconds(20)));
  }

  std::unique_ptr<CacheClient> Connect(size_t i) {
    NamespaceSpec spec{.model = "m", .kv_dtype = "bf16", .layout = "opaque", .block_tokens = 16,
                       .parts = {{.id = 0, .block_bytes = kBlockBytes}}};
    absl::StatusOr<std::unique_ptr<CacheClient>> client =
        CacheClient::Connect({.node = "unix://" + socket(i), .space = spec, .staging_bytes = 1 << 20}, Soon());
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }
  // Nodes that were told, since the directories started, that another computes.
  int ToldToWait() const {
    int told = 0;
    for (const Member& directory : directories_) {
      httplib::Client client("http://" + directory.http);
      const auto page = client.Get("/metrics");
      const std::string name = "stemcache_directory_intends_total{outcome=\"refused\"} ";
      const size_t at = page ? page->body.find(name) : std::string::npos;
      if (at != std::string::npos) told += std::atoi(page->body.c_str() + at + name.size());
    }
    return told;
  }
  // Until the streams of all nodes that run are as wanted.
  void WaitForStreams(const std::function<bool(const v1::NodeStatusReply&, const v1::NodeStatusReply::Stream&)>& wanted) {
    for (size_t i = 0; i < 2; ++i) {
      if (!IsRunning(nodes_[i].process)) continue;
      const auto stub = v1::Node::NewStub(grpc::CreateChannel("unix:" + socket(i), grpc::InsecureChannelCredentials()));
      bool all = false;
      while (!all) {
        grpc::ClientContext context;
        v1::NodeStatusReply status;
        ASSERT_TRUE(stub->NodeStatus(&context, {}, &status).ok());
        all = std::all_of(status.streams().begin(), status.streams().end(),
                          [&](const auto& stream) { return wanted(status, stream); });
        if (!all) absl::SleepFor(absl::Milliseconds(5));
      }
    }
  }
  // Until every directory that runs has acknowledged all that the nodes that run have said.
  void Settle() {
    WaitForStreams([this](const v1::NodeStatusReply& status, const v1::NodeStatusReply::Stream& stream) {
      const Member& directory = directories_[stream.directory() == directories_[0].address ? 0 : 1];
      return !IsRunning(directory.process) ||
             (stream.connected() && stream.sequence_acknowledged() >= status.sequence());
    });
  }
  std::vector<BlockKey> Chain(uint32_t number) { return ChainOf(*clients_[0], 8, number * 1000); }
  static uint32_t Publish(CacheClient& client, const std::vector<BlockKey>& keys) {
    return testing::Publish(client, keys, FillWithPosition);
  }
  // Node 0 publishes chains one by one, and a client of node 1, who never had them, must find each whole. After the tenth
  // `event` comes, and nothing is waited for.
  void EveryChainIsFound(const std::function<void()>& event) {
    constexpr uint32_t kChains = 40;
    for (uint32_t i = 0; i < kChains; ++i) ASSERT_EQ(Publish(*clients_[0], Chain(i)), 8u);
    Settle();
    for (uint32_t i = 0; i < kChains; ++i) {
      if (i == 10) event();
      const absl::StatusOr<Stem> stem = clients_[1]->Acquire(Chain(i), {}, Soon());
      ASSERT_TRUE(stem.ok()) << stem.status();
      EXPECT_EQ(stem->matched_blocks(), 8u)
          << "chain " << i << ": " << (stem->misses().empty() ? "" : CauseName(stem->misses()[0].cause));
    }
  }

  TempDirectory path_;
  std::array<Member, 2> directories_;
  std::array<Member, 2> nodes_;
  std::array<std::unique_ptr<CacheClient>, 2> clients_;
};

TEST_F(FleetKillTest, KilledDirectoryLosesNoMatch) {
  EveryChainIsFound([&] { Kill(directories_[0]); });
}

TEST_F(FleetKillTest, DirectoryThatAcceptsAndNeverAnswersLosesNoMatch) {
  EveryChainIsFound([&] { ASSERT_TRUE(Signal(directories_[0].process, SIGSTOP).ok()); });
}

TEST_F(FleetKillTest, RestartedDirectoryServesWhenTheOtherIsKilled) {
  EveryChainIsFound([&] {
    Kill(directories_[0]);
    WaitForStreams([this](const v1::NodeStatusReply&, const v1::NodeStatusReply::Stream& stream) {
      return stream.directory() != directories_[0].address || !stream.connected();
    });
    StartDirectory(0, directories_[0].address);
    Settle();
    Kill(directories_[1]);
  });
}

// The engine that waits for another's prefill, and what ends that.
TEST_F(FleetKillTest, WaitForAPrefillEndsWithTheNodeThatComputesOrTheDirectories) {
  for (const bool directories : {false, true}) {
    const std::vector<BlockKey> keys = Chain(directories ? 501 : 500);
    const AcquireOptions options{.compute = absl::Minutes(1)};
    CacheClient& computes = *clients_[directories ? 1 : 0];
    ASSERT_EQ(computes.Acquire(keys, options, Soon())->matched_blocks(), 0u);
    const std::unique_ptr<CacheClient> other = Connect(1);

    Mutex mutex;
    CondVar answered;
    std::optional<absl::StatusOr<Stem>> stem;
    other->AcquireAsync(keys, options, absl::Now() + absl::Minutes(5), [&](absl::StatusOr<Stem> result) {
      MutexLock lock(mutex);
      stem = std::move(result);
      answered.NotifyAll();
    });
    while (ToldToWait() < (directories ? 2 : 1)) absl::SleepFor(absl::Milliseconds(2));
    const absl::Time killed = absl::Now();
    if (directories) {
      for (const Member& directory : directories_) Kill(directory);
    } else {
      Kill(nodes_[0]);
    }
    {
      MutexLock lock(mutex);
      while (!stem.has_value()) answered.Wait(mutex);
      ASSERT_TRUE((*stem).ok()) << stem->status();
      EXPECT_EQ((**stem).matched_blocks(), 0u) << "it computes";
    }
    EXPECT_LT(absl::Now() - killed, absl::Seconds(30)) << "not the minute that the other had";
    EXPECT_EQ(Publish(*other, keys), 8u);
  }
}

}  // namespace
}  // namespace stem
