// Many nodes that do not answer: a question to all of them ends in time, and says of whom it was not asked.
#include "services/console/fleet_questions.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "services/runtime/cluster_secret.h"
#include "tests/support/black_hole.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

// Knows the nodes that it was told of.
class FakeDirectory final : public v1::Directory::Service {
 public:
  grpc::Status DirectoryStatus(grpc::ServerContext*, const v1::DirectoryStatusRequest*, v1::DirectoryStatusReply* reply) override {
    *reply = known;
    return grpc::Status::OK;
  }
  void Add(const std::string& node, const std::string& state, const std::string& address) {
    auto* const added = known.add_nodes();
    added->mutable_address()->set_node(node);
    added->mutable_address()->set_peer_address(address);
    added->set_state(state);
  }
  v1::DirectoryStatusReply known;
};

class FakeNode final : public v1::Node::Service {
  grpc::Status NodeStatus(grpc::ServerContext*, const v1::NodeStatusRequest*, v1::NodeStatusReply* reply) override {
    reply->set_version("here");
    return grpc::Status::OK;
  }
};

class FleetQuestionsTest : public ::testing::Test {
 protected:
  FleetQuestionsTest() : secret_(*ClusterSecret::FromBytes(std::vector<uint8_t>(32, 's'))) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&directory_);
    builder.RegisterService(&node_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("127.0.0.1:", port);
    fleet_ = std::make_unique<FleetQuestions>(server_->InProcessChannel({}), secret_);
  }
  auto AskAll(absl::Duration patience) { return fleet_->AskNodes(absl::Now() + patience, "", &v1::Node::Stub::NodeStatus); }

  const ClusterSecret secret_;
  FakeDirectory directory_;
  FakeNode node_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::unique_ptr<FleetQuestions> fleet_;
};

TEST_F(FleetQuestionsTest, AThousandNodesThatDoNotAnswerTakeNoLongerThanTheQuestionHas) {
  BlackHole hole;
  for (int i = 0; i < 1000; ++i) directory_.Add(absl::StrCat("dead-", i), "stale", hole.address());
  directory_.Add("alive", "live", address_);
  const auto answers = AskAll(absl::Seconds(1));
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 1001u);
  EXPECT_EQ(answers->front().node, "alive") << "who is heard is asked first";
  ASSERT_TRUE(answers->front().reply.ok()) << answers->front().reply.status();
  EXPECT_EQ(answers->front().reply->version(), "here");
  size_t not_asked = 0;
  for (const auto& answer : *answers) {
    if (absl::StrContains(answer.reply.status().message(), "not asked in time")) ++not_asked;
  }
  // In one second of patience nobody after the first who are asked at once has a turn.
  EXPECT_EQ(not_asked, 1001 - 1 - kNodesAskedAtOnce);
}

TEST_F(FleetQuestionsTest, AThousandNodesThatAnswerAreAllAsked) {
  for (int i = 0; i < 1000; ++i) directory_.Add(absl::StrCat("node-", i), "live", address_);
  const auto answers = AskAll(absl::Minutes(1));
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 1000u);
  for (const auto& answer : *answers) EXPECT_TRUE(answer.reply.ok()) << answer.reply.status();
  EXPECT_EQ(*fleet_->ShareOf(300, "", absl::Now() + absl::Minutes(1)), 10u);
  EXPECT_EQ(*fleet_->ShareOf(300, "node-7", absl::Now() + absl::Minutes(1)), 300u);
}

TEST_F(FleetQuestionsTest, ADirectoryThatDoesNotAnswerIsAnErrorNotAnEmptyFleet) {
  const BlackHole hole;
  fleet_ = std::make_unique<FleetQuestions>(grpc::CreateChannel(hole.address(), grpc::InsecureChannelCredentials()), secret_);
  EXPECT_FALSE(AskAll(absl::Seconds(1)).ok());
  EXPECT_FALSE(fleet_->ShareOf(10, "", absl::Now() + absl::Seconds(1)).ok());
  EXPECT_FALSE(fleet_->AskRequests(absl::Now() + absl::Seconds(1), "", v1::RequestsRequest()).ok());
}

}  // namespace
}  // namespace stem
