// The console's HTTP side on a real cluster: it says what the processes say, shows only unless it may take orders, and is closed to other sites.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "httplib.h"
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
const httplib::Headers kOrder = {{"X-Stemcache-Console", "1"}};

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
  httplib::Response Order(const std::string& path, const Json& message, const httplib::Headers& headers = kOrder) {
    const httplib::Result result = http_->Post(path, headers, message.dump(), "application/json");
    return result ? *result : httplib::Response();
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
  EXPECT_EQ(Order("/api/nodes/node-0/drain", Json::object(), {}).status, 403) << "a form of another site sends no header of its own";
  EXPECT_EQ(Order("/api/nodes/node-0/drain", Json::object(), {{"X-Stemcache-Console", "1"}, {"Host", "evil.example"}}).status, 403);
  EXPECT_EQ(Get("/api/fleet", {{"Host", "evil.example:80"}}).status, 403) << "a name that was made to mean this host";
  EXPECT_EQ(Get("/api/fleet", {{"Host", "localhost:80"}}).status, 200);
  EXPECT_FALSE(cluster_->node(0).Status().draining());
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
  follow([](const std::string& text) {
    if (!absl::StrContains(text, "\n\n")) return true;
    EXPECT_THAT(text, HasSubstr("\"live\":2"));
    return false;
  });
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
