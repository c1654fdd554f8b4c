// The console's HTTP side on a real cluster: it says what the processes say, shows only unless it may take orders, and is closed to other sites.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "httplib.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/directory.grpc.pb.h"
#include "tests/support/announce.h"
#include "tests/support/black_hole.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Publish;
using ::testing::HasSubstr;
using Json = nlohmann::json;

constexpr uint64_t kBlockBytes = 4096;

// Nodes that are only their streams to the directory, which gives them up when this ends.
class HeardNodes {
 public:
  HeardNodes(const std::string& directory, const ClusterSecret& secret, size_t count, const std::string& address)
      : stub_(v1::Directory::NewStub(grpc::CreateChannel(directory, grpc::InsecureChannelCredentials()))), nodes_(count) {
    for (size_t i = 0; i < count; ++i) {
      Node& node = nodes_[i];
      secret.AddToken(node.context);
      node.stream = stub_->Announce(&node.context);
      v1::AnnounceMessage hello = ::stem::testing::HelloOf(absl::StrCat("far-", i), 1);
      hello.mutable_hello()->mutable_node()->set_peer_address(address);
      node.stream->Write(hello);
      node.stream->Write(::stem::testing::SnapshotOf(0, ::stem::testing::SpaceOf(1)));
    }
    beater_ = std::thread([this] {
      while (!ended_) {
        for (Node& node : nodes_) node.stream->Write(::stem::testing::BeatOf(0));
        absl::SleepFor(absl::Milliseconds(300));
      }
    });
  }
  ~HeardNodes() {
    ended_ = true;
    beater_.join();
    for (Node& node : nodes_) node.context.TryCancel();
    for (Node& node : nodes_) {
      for (v1::AnnounceReply reply; node.stream->Read(&reply);) {
      }
      (void)node.stream->Finish();
    }
  }

 private:
  struct Node {
    grpc::ClientContext context;
    std::unique_ptr<grpc::ClientReaderWriter<v1::AnnounceMessage, v1::AnnounceReply>> stream;
  };

  const std::unique_ptr<v1::Directory::Stub> stub_;
  std::vector<Node> nodes_;
  std::atomic<bool> ended_{false};
  std::thread beater_;
};

class ConsoleTest : public ::testing::Test {
 protected:
  void Up(const InProcessCluster::Options& options) {
    cluster_ = std::make_unique<InProcessCluster>(options);
    http_ = std::make_unique<httplib::Client>("http://" + cluster_->console_address());
    http_->set_read_timeout(30);
  }
  httplib::Response Get(const std::string& path, const httplib::Headers& headers = {}) {
    const httplib::Result result = http_->Get(path, headers);
    return result ? *result : httplib::Response();
  }
  Json Ask(const std::string& path) {
    const httplib::Response response = Get(path);
    EXPECT_EQ(response.status, 200) << path << ": " << response.body;
    return Json::parse(response.body, nullptr, false);
  }
  httplib::Response Order(const std::string& path, const Json& message, const httplib::Headers& headers) {
    const httplib::Result result = http_->Post(path, headers, message.dump(), "application/json");
    return result ? *result : httplib::Response();
  }
  httplib::Response Order(const std::string& path, const Json& message) {
    return Order(path, message, {{"X-Stemcache-Console", cluster_->admin_token()}});
  }
  double Counted(const std::string& name) { return ReadMetric(Get("/metrics").body, name); }
  static double ReadMetric(const std::string& page, const std::string& name) {
    const size_t at = page.find("\n" + name + " ");
    EXPECT_NE(at, page.npos) << name;
    return at == page.npos ? -1 : std::stod(page.substr(at + name.size() + 2));
  }

  std::unique_ptr<InProcessCluster> cluster_;
  std::unique_ptr<httplib::Client> http_;
};

TEST_F(ConsoleTest, ThePageIsInTheBinaryAndAsksNoOtherHost) {
  Up({.nodes = 1});
  const httplib::Response page = Get("/");
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.body, HasSubstr("/console.js"));
  EXPECT_THAT(page.get_header_value("Content-Security-Policy"), HasSubstr("default-src 'none'"));
  for (const char* const path : {"/console.js", "/console.css", "/icon.svg"}) {
    const httplib::Response file = Get(path);
    EXPECT_EQ(file.status, 200) << path;
    EXPECT_GT(file.body.size(), 100u) << path;
    EXPECT_EQ(file.get_header_value("X-Content-Type-Options"), "nosniff");
  }
  EXPECT_EQ(Get("/nothing").status, 404);
  EXPECT_EQ(Get("/healthz").status, 200);
  EXPECT_THAT(Get("/metrics").body, HasSubstr("stemcache_build_info"));
}

TEST_F(ConsoleTest, FleetAndNodesAreWhatTheProcessesSay) {
  Up({.nodes = 3});
  const auto client = cluster_->Connect(1, TestSpec(kBlockBytes));
  ASSERT_EQ(Publish(*client, ChainOf(*client, 7), FillWithPosition), 7u);
  cluster_->Settle();
  const Json fleet = Ask("/api/fleet");
  ASSERT_EQ(fleet["nodes"].size(), 3u);
  EXPECT_EQ(fleet["nodes"][1]["address"]["node"], "node-1");
  EXPECT_EQ(fleet["nodes"][1]["blocksDram"], "7");
  const Json nodes = Ask("/api/nodes");
  ASSERT_EQ(nodes["nodes"].size(), 3u);
  EXPECT_EQ(nodes["nodes"][1]["status"]["sessions"], "1");
  EXPECT_EQ(nodes["nodes"][0]["status"]["sessions"], "0");
  EXPECT_EQ(Ask("/api/nodes?node=node-2")["nodes"].size(), 1u);
  EXPECT_EQ(Ask("/api/about")["admin"], false);
}

TEST_F(ConsoleTest, BadQuestionsAreToldWhatIsWrong) {
  Up({.nodes = 1});
  EXPECT_EQ(Get("/api/history?seconds=a").status, 400);
  EXPECT_THAT(Get("/api/history?points=99999999").body, HasSubstr("points"));
  EXPECT_EQ(Get("/api/explain?namespace=zz&keys=").status, 400);
  EXPECT_EQ(Get("/api/stems?below=1").status, 400);
  EXPECT_EQ(Get("/api/requests?recent=100000").status, 400);
}

TEST_F(ConsoleTest, OrdersAreRefusedUnlessTheDirectoryMayTakeThem) {
  Up({.nodes = 1});
  const httplib::Response refused = Order("/api/nodes/node-0/drain", {{"resume", false}});
  EXPECT_EQ(refused.status, 403);
  EXPECT_THAT(refused.body, HasSubstr("--admin"));
  EXPECT_FALSE(cluster_->node(0).Status().draining());
}

TEST_F(ConsoleTest, AnAdministratorDrainsAndResumes) {
  Up({.nodes = 2, .admin = true});
  EXPECT_EQ(Ask("/api/about")["admin"], true);
  const httplib::Response drained = Order("/api/nodes/node-1/drain", {{"resume", false}});
  EXPECT_EQ(drained.status, 200) << drained.body;
  EXPECT_TRUE(cluster_->node(1).Status().draining());
  EXPECT_FALSE(cluster_->node(0).Status().draining());
  EXPECT_EQ(Order("/api/nodes/node-1/drain", {{"resume", true}}).status, 200);
  EXPECT_FALSE(cluster_->node(1).Status().draining());
  EXPECT_EQ(Order("/api/nodes/node-7/drain", Json::object()).status, 404);
  EXPECT_EQ(Order("/api/nodes/node-1/explode", Json::object()).status, 404);
  EXPECT_EQ(Order("/api/nodes/node-1/quota", {{"no_such_field", 1}}).status, 400);
}

TEST_F(ConsoleTest, OtherSitesCanNeitherOrderNorRead) {
  Up({.nodes = 1, .admin = true});
  const std::string token = cluster_->admin_token();
  EXPECT_EQ(Order("/api/nodes/node-0/drain", Json::object(), {}).status, 403) << "a form of another site sends no header of its own";
  EXPECT_EQ(Order("/api/nodes/node-0/drain", Json::object(), {{"X-Stemcache-Console", token}, {"Host", "evil.example"}}).status, 403);
  // Names that were made to mean this host.
  for (const char* const name : {"evil.example:80", "127.evil.example", "127.0.0.1.evil.example:80", "localhost.evil", "[::1].evil", "[::1", ""}) {
    EXPECT_EQ(Get("/api/fleet", {{"Host", name}}).status, 403) << name;
  }
  for (const char* const name : {"localhost:80", "localhost", "127.0.0.1:80", "127.1.2.3", "[::1]:80", "[::1]"}) {
    EXPECT_EQ(Get("/api/fleet", {{"Host", name}}).status, 200) << name;
  }
  EXPECT_FALSE(cluster_->node(0).Status().draining());
}

TEST_F(ConsoleTest, OrdersAreTakenFromWhoShowsTheToken) {
  Up({.nodes = 1, .admin = true});
  const std::string token = cluster_->admin_token();
  ASSERT_EQ(token.size(), 32u);
  for (const std::string& shown : {std::string("1"), std::string(32, '0'), token.substr(1), token + "0"}) {
    const httplib::Response refused = Order("/api/nodes/node-0/drain", Json::object(), {{"X-Stemcache-Console", shown}});
    EXPECT_EQ(refused.status, 401) << shown;
    EXPECT_THAT(refused.body, HasSubstr("access token"));
  }
  EXPECT_FALSE(cluster_->node(0).Status().draining());
  EXPECT_EQ(Order("/api/nodes/node-0/drain", Json::object()).status, 200);
  EXPECT_TRUE(cluster_->node(0).Status().draining());
}

TEST_F(ConsoleTest, ADirectoryMayHaveNone) {
  Up({.nodes = 1, .console = false});
  for (const char* const path : {"/", "/api/fleet", "/api/events"}) {
    const httplib::Response response = Get(path);
    EXPECT_EQ(response.status, 404) << path;
    EXPECT_THAT(response.body, HasSubstr("--console false"));
  }
  EXPECT_EQ(Get("/healthz").status, 200);
  EXPECT_THAT(Get("/metrics").body, HasSubstr("stemcache_build_info"));
}

TEST_F(ConsoleTest, WhoHoldsAStemIsToldOfAllItsPartsAndIsNoScoreOfRouters) {
  Up({.nodes = 2});
  NamespaceSpec spec = TestSpec(kBlockBytes);
  spec.parts.push_back({.id = 1, .layer_first = 8, .block_bytes = kBlockBytes});
  const auto client = cluster_->Connect(1, spec);
  const std::vector<BlockKey> whole = ChainOf(*client, 1, 1), half = ChainOf(*client, 1, 1000);
  ASSERT_EQ(Publish(*client, whole, FillWithPosition), 2u);
  ASSERT_EQ(Publish(*client, half, FillWithPosition, {.parts = {0}}), 1u);
  cluster_->Settle();
  const std::string space = client->fingerprint().ToHex();
  const Json held = Ask(absl::StrCat("/api/holders?namespace=", space, "&keys=", whole[0].ToHex(), half[0].ToHex()))["holders"];
  ASSERT_EQ(held.size(), 2u) << held;
  ASSERT_EQ(held[whole[0].ToHex()]["nodes"].size(), 1u) << held;
  EXPECT_EQ(held[whole[0].ToHex()]["nodes"][0]["node"], "node-1");
  EXPECT_EQ(held[whole[0].ToHex()]["nodes"][0]["dramBlocks"], 1);
  EXPECT_EQ(held[half[0].ToHex()]["nodes"].size(), 0u) << "half a block serves nobody";
  EXPECT_EQ(Counted("stemcache_directory_scores_total"), 0);
  const std::string ask = absl::StrCat("/api/explain?namespace=", space, "&keys=");
  EXPECT_EQ(Ask(ask + whole[0].ToHex())["matchedBlocks"], 1);
  EXPECT_EQ(Ask(ask + half[0].ToHex())["matchedBlocks"], 0) << "half a block serves nobody";
  EXPECT_EQ(Get(absl::StrCat("/api/explain?namespace=", std::string(32, '0'), "&keys=", whole[0].ToHex())).status, 404);
}

TEST_F(ConsoleTest, ExplainNamesTheFieldInWhichNamespacesDiffer) {
  Up({.nodes = 1});
  NamespaceSpec other = TestSpec(kBlockBytes);
  other.kv_dtype = "fp8";
  const auto asking = cluster_->Connect(0, TestSpec(kBlockBytes)), publishing = cluster_->Connect(0, other);
  const std::vector<uint32_t> tokens(64, 7);
  ChainHasher hasher = *publishing->NewHasher(), asked_hasher = *asking->NewHasher();
  const std::vector<BlockKey> keys = *hasher.HashPrompt("", tokens, {}), asked = *asked_hasher.HashPrompt("", tokens, {});
  ASSERT_TRUE(asked_hasher.probe().has_value());
  ASSERT_EQ(Publish(*publishing, keys, FillWithPosition, {.parent = std::nullopt, .parts = {}, .traceparent = "", .probe = hasher.probe()}), 4u);
  const std::string question = absl::StrCat("/api/explain?node=node-0&namespace=", asking->fingerprint().ToHex(), "&keys=", asked[0].ToHex());
  const std::string probe = absl::StrCat("&probe=", absl::BytesToHexString(asked_hasher.probe()->bytes()));
  Json missing;
  EXPECT_TRUE(Eventually([&] { return (missing = Ask(question + probe)["misses"][0])["miss"]["cause"] == "MISS_CAUSE_INCOMPATIBLE"; })) << missing;
  EXPECT_EQ(missing["difference"]["field"], "kv_dtype") << missing;
  EXPECT_EQ(missing["difference"]["asked"], "bf16");
  EXPECT_EQ(missing["difference"]["known"], "fp8");
  EXPECT_EQ(Ask(question)["misses"][0]["miss"]["cause"], "MISS_CAUSE_COLD") << "without the probe nobody can tell";
}

TEST_F(ConsoleTest, ATickIsSingleSecondsSoThatTheyCanBeAddedUp) {
  Up({.nodes = 1});
  const auto client = cluster_->Connect(0, TestSpec(kBlockBytes));
  for (uint32_t i = 0; i < 25; ++i) {  // over some seconds
    ASSERT_EQ(Publish(*client, ChainOf(*client, 1, 1 + 16 * i), FillWithPosition), 1u);
    absl::SleepFor(absl::Milliseconds(100));
  }
  cluster_->Settle();
  Json points;
  EXPECT_TRUE(Eventually([&] { return (points = Ask("/api/tick")["history"]["points"]).size() >= 3; })) << points;
  for (const Json& point : points) EXPECT_LE(point["stepMs"], 1000) << points;
}

// Nodes that the directory hears and nobody reaches.
TEST_F(ConsoleTest, HoweverSlowAThousandNodesAreHealthAndMetricsAreAnswered) {
  Up({.nodes = 1});
  const BlackHole hole;
  const ClusterSecret secret = *ClusterSecret::FromBytes(std::vector<uint8_t>(32, 's'));
  const HeardNodes unreachable(cluster_->directory_address(), secret, 1000, hole.address());
  Json tick;
  ASSERT_TRUE(Eventually([&] {
    const httplib::Response response = Get("/api/tick");
    if (response.status != 200) return false;  // a slow machine, busy with a thousand streams
    tick = Json::parse(response.body);
    return tick["counts"]["live"].get<int>() + tick["counts"]["stale"].get<int>() == 1001;
  })) << tick["counts"];
  EXPECT_EQ(Ask("/api/fleet")["nodes"].size(), 1001u);
  EXPECT_LT(tick.dump().size(), 50'000u) << "followers are told of the nodes in trouble, not of all";
  const std::vector<const char*> paths = {"/api/nodes", "/api/requests", "/api/stems", "/api/curve"};
  const int total = 24;
  std::atomic<int> busy{0}, answered{0}, silent{0};
  std::vector<std::thread> askers;
  for (int i = 0; i < total; ++i) {
    askers.emplace_back([&, path = paths[static_cast<size_t>(i) % paths.size()]] {
      httplib::Client client("http://" + cluster_->console_address());
      client.set_read_timeout(60);
      const httplib::Result result = client.Get(path);
      if (!result) return;
      if (result->status == 200) ++answered;
      if (result->status == 200 && absl::StrContains(result->body, "not asked in time")) ++silent;
      if (result->status == 503 && result->get_header_value("Retry-After") == "1") ++busy;
    });
  }
  EXPECT_TRUE(Eventually([&] { return busy > 0; })) << "four at a time ask nodes";
  EXPECT_EQ(Get("/healthz").status, 200);
  EXPECT_EQ(Get("/api/fleet").status, 200);
  EXPECT_THAT(Get("/metrics").body, HasSubstr("stemcache_build_info"));
  EXPECT_LT(answered + busy, total) << "while questions are on their way";
  for (std::thread& asker : askers) asker.join();
  EXPECT_EQ(busy + answered, total);
  EXPECT_GT(silent, 0) << "what there was no time for is told";
}

TEST_F(ConsoleTest, FollowersAreToldEachSecondAndAreBounded) {
  Up({.nodes = 2});
  const auto follow = [&](const std::function<bool(const std::string&)>& heard) {
    httplib::Client client("http://" + cluster_->console_address());
    client.set_read_timeout(30);
    std::string text;
    return client.Get("/api/events", [&](const char* data, size_t size) {
      text.append(data, size);
      return heard(text);
    });
  };
  // Which both nodes need not be at first.
  EXPECT_FALSE(follow([](const std::string& text) { return !absl::StrContains(text, "\"live\":2"); })) << "hung up here";
  std::atomic<int> told{0};
  std::atomic<bool> end{false};
  std::vector<std::thread> followers;
  for (int i = 0; i < 16; ++i) {
    followers.emplace_back([&] {
      bool first = true;
      while (first && !end) {  // the follower before may not be known to be gone yet
        follow([&](const std::string& text) {
          if (first && absl::StrContains(text, "\n\n")) {
            ++told;
            first = false;
          }
          return !end;
        });
      }
    });
  }
  while (told < 16) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(Get("/api/events").status, 503) << "one too many";
  EXPECT_EQ(Get("/api/fleet").status, 200) << "who asks is answered all the same";
  end = true;
  for (std::thread& follower : followers) follower.join();
}

TEST_F(ConsoleTest, ADirectoryEndsWhileItIsFollowed) {
  Up({.nodes = 1});
  std::atomic<bool> told{false};
  std::thread follower([address = cluster_->console_address(), &told] {
    httplib::Client client("http://" + address);
    client.set_read_timeout(30);
    client.Get("/api/events", [&](const char*, size_t) {
      told = true;
      return true;
    });
  });
  while (!told) absl::SleepFor(absl::Milliseconds(5));
  cluster_->StopDirectory(0);
  follower.join();
}

}  // namespace
}  // namespace stem
