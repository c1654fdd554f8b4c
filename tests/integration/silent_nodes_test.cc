// Nodes that are down or frozen: commands say that they did not answer, and never that there is nothing.
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/ctl/explain.h"
#include "services/ctl/request_streams.h"
#include "services/ctl/requests.h"
#include "tests/support/eventually.h"
#include "tests/support/frozen_server.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::Soon;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kBlockBytes = 16384;

class SilentNodesTest : public ::testing::Test {
 protected:
  SilentNodesTest() : cluster_(InProcessCluster::Options{.nodes = 2}) {}

  void AskFor(size_t node, const std::string& request) {
    const auto client = cluster_.Connect(node, TestSpec(kBlockBytes));
    AcquireOptions options;
    options.request = request;
    ASSERT_TRUE(client->Acquire(testing::ChainOf(*client, 2), options, Soon()).ok());
  }
  StatusTargets Targets() const {
    StatusTargets targets = {.nodes = cluster_.sockets(), .directories = cluster_.directory_addresses(), .secret_file = cluster_.secret_file()};
    targets.names = {{cluster_.socket(0), "node-0"}, {cluster_.socket(1), "node-1"}};
    return targets;
  }
  // In node 1's place.
  StatusTargets WithFrozen() const {
    StatusTargets targets = Targets();
    targets.nodes[1] = frozen_.address();
    targets.names[frozen_.address()] = "node-1";
    targets.deadline = absl::Milliseconds(300);
    return targets;
  }
  std::vector<NamedNode> Nodes(const StatusTargets& targets) const { return *NodesToAsk(targets); }

  InProcessCluster cluster_;
  FrozenServer frozen_;
};

TEST_F(SilentNodesTest, ARequestThatNobodyAskedIsNotFoundWhenAllAnswer) {
  EXPECT_EQ(ExplainRequest(Targets(), "never").status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SilentNodesTest, WithANodeDownNobodySaysThatNoNodeRemembers) {
  AskFor(1, "served by node-1");
  ASSERT_TRUE(Eventually([&] { return ExplainRequest(Targets(), "served by node-1").ok(); }));
  cluster_.StopNode(1);
  const absl::Status down = ExplainRequest(Targets(), "served by node-1").status();
  EXPECT_EQ(down.code(), absl::StatusCode::kUnavailable) << down;
  EXPECT_THAT(std::string(down.message()), HasSubstr("node-1 did not answer"));
  // Asked by the directory's list, too: also once it has lost the node.
  const StatusTargets fleet = {.directories = cluster_.directory_addresses(), .secret_file = cluster_.secret_file()};
  ASSERT_TRUE(Eventually([&] { return NodesToAsk(fleet)->size() == 1; })) << "lost";
  const absl::Status lost = ExplainRequest(fleet, "served by node-1").status();
  EXPECT_EQ(lost.code(), absl::StatusCode::kUnavailable) << lost;
  EXPECT_THAT(std::string(lost.message()), HasSubstr("node-1 did not answer"));
}

TEST_F(SilentNodesTest, WithANodeFrozenNobodySaysThatNoNodeRemembers) {
  const absl::Status status = ExplainRequest(WithFrozen(), "served by node-1").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("node-1 did not answer"));
}

TEST_F(SilentNodesTest, WhatOthersRememberIsToldWithWhoIsSilent) {
  AskFor(0, "twice");
  ASSERT_TRUE(Eventually([&] { return ExplainRequest(Targets(), "twice").ok(); }));
  EXPECT_THAT(ExplainRequest(Targets(), "twice")->ToText(), Not(HasSubstr("did not answer")));
  const absl::StatusOr<Explanation> explanation = ExplainRequest(WithFrozen(), "twice");
  ASSERT_TRUE(explanation.ok()) << explanation.status();
  EXPECT_EQ(explanation->record->node(), "node-0");
  EXPECT_THAT(explanation->ToText(), HasSubstr("node-1 did not answer: it may remember a later request"));
  EXPECT_EQ(explanation->ToJson()["silent_of_requests"][0], "node-1");
}

TEST_F(SilentNodesTest, OnceEndsWithANodeFrozen) {
  AskFor(0, "one");
  v1::RequestsRequest request;
  request.set_recent(10);
  size_t records = 0;
  std::vector<Answer<bool>> ends;
  ASSERT_TRUE(Eventually([&] {
    records = 0;
    const auto count = [&](const v1::RequestRecord&) { return ++records > 0; };
    ends = FollowRequests(Nodes(WithFrozen()), cluster_.secret_file(), request, absl::Milliseconds(300), {.show = count});
    return records > 0;
  }));
  EXPECT_TRUE(ends[0].reply.ok()) << ends[0].reply.status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(ends[1].reply.status())) << ends[1].reply.status();
}

TEST_F(SilentNodesTest, FollowingSaysAtOnceThatANodeEndedAndGoesOnWhenItIsBack) {
  AskFor(1, "before");
  v1::RequestsRequest request;
  request.set_recent(10);
  request.set_follow(true);
  std::vector<std::string> seen;
  std::vector<std::string> lost;
  std::vector<std::string> came_back;
  const auto show = [&](const v1::RequestRecord& record) {
    if (record.kind() != "acquire") return true;
    seen.push_back(record.request());
    if (record.request() == "before") cluster_.StopNode(1);
    return record.request() != "after";
  };
  const auto tell = [&](const std::string& node, const absl::Status& why, bool again) {
    EXPECT_FALSE(why.ok());
    EXPECT_TRUE(again);
    lost.push_back(node);
    cluster_.StartNode(1);
    AskFor(1, "after");
  };
  const auto back = [&](const std::string& node) { came_back.push_back(node); };
  const auto ends = FollowRequests({{"node-1", cluster_.socket(1)}}, cluster_.secret_file(), request, absl::Seconds(20), {.show = show, .lost = tell, .back = back});
  EXPECT_EQ(seen, (std::vector<std::string>{"before", "after"})) << "each once";
  EXPECT_EQ(lost, std::vector<std::string>{"node-1"}) << "once";
  EXPECT_EQ(came_back, std::vector<std::string>{"node-1"});
  EXPECT_TRUE(ends[0].reply.ok()) << ends[0].reply.status();
}

TEST_F(SilentNodesTest, ARefusedTokenIsNotTriedAgain) {
  v1::RequestsRequest request;
  request.set_follow(true);
  size_t told = 0;
  const auto tell = [&](const std::string&, const absl::Status& why, bool again) {
    ++told;
    EXPECT_TRUE(absl::IsUnauthenticated(why)) << why;
    EXPECT_FALSE(again);
  };
  const auto ends = FollowRequests(Nodes(Targets()), "", request, absl::Seconds(20), {.show = [](const auto&) { return true; }, .lost = tell});
  EXPECT_EQ(told, 2u);
  EXPECT_TRUE(absl::IsUnauthenticated(ends[0].reply.status()));
}

}  // namespace
}  // namespace stem
