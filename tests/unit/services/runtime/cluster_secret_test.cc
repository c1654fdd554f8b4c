#include "services/runtime/cluster_secret.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "services/runtime/listen.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class ClusterSecretTest : public ::testing::Test {
 protected:
  ~ClusterSecretTest() override { std::filesystem::remove(path_); }
  void Write(const std::string& text, mode_t mode) {
    std::ofstream(path_) << text;
    chmod(path_.c_str(), mode);
  }
  const std::string path_ = std::filesystem::temp_directory_path() / absl::StrCat("stem_secret_", getpid());
  std::ostringstream out_;
  Logger log_{{.process = "t", .out = &out_}};
};

TEST_F(ClusterSecretTest, BytesAreTheFileAsItIs) {
  const std::string text = std::string(32, 'k') + "\n";
  Write(text, 0600);
  const auto secret = ClusterSecret::Read(path_, log_);
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(std::string(secret->bytes().begin(), secret->bytes().end()), text);
  EXPECT_EQ(out_.str(), "");
}

TEST_F(ClusterSecretTest, FileThatOthersCanReadIsWarnedAbout) {
  Write(std::string(32, 'k'), 0644);
  EXPECT_TRUE(ClusterSecret::Read(path_, log_).ok());
  EXPECT_THAT(out_.str(), HasSubstr("warn secret_file_readable_by_others"));
}

TEST_F(ClusterSecretTest, WrongSizesAreRefused) {
  Write(std::string(31, 'k'), 0600);
  const auto brief = ClusterSecret::Read(path_, log_);
  EXPECT_EQ(brief.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(brief.status().message()), HasSubstr("has 31 bytes; it must have 32"));
  Write(std::string(kSecretBytesMax + 1, 'k'), 0600);
  EXPECT_EQ(ClusterSecret::Read(path_, log_).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ClusterSecret::Read("/nonexistent/secret", log_).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ClusterSecret::Read("/tmp", log_).status().code(), absl::StatusCode::kUnavailable);
}

// Answers DirectoryStatus with what CheckToken says.
class Guard : public stemcache::v1::Directory::CallbackService {
 public:
  explicit Guard(const ClusterSecret& secret) : secret_(secret) {}
  grpc::ServerUnaryReactor* DirectoryStatus(grpc::CallbackServerContext* context,
                                            const stemcache::v1::DirectoryStatusRequest*,
                                            stemcache::v1::DirectoryStatusReply*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(secret_.CheckToken(*context).ok() ? grpc::Status::OK
                                                      : grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "no"));
    return reactor;
  }

 private:
  const ClusterSecret& secret_;
};

TEST(ClusterSecretCalls, OnlyCallersWithTheSameSecretPass) {
  const ClusterSecret ours = *ClusterSecret::FromBytes(std::vector<uint8_t>(32, 1));
  const ClusterSecret theirs = *ClusterSecret::FromBytes(std::vector<uint8_t>(32, 2));
  Guard guard(ours);
  grpc::ServerBuilder builder;
  builder.RegisterService(&guard);
  auto server = StartGrpcServer(builder, {{.host = "127.0.0.1"}});
  ASSERT_TRUE(server.ok()) << server.status();
  auto stub = stemcache::v1::Directory::NewStub(
      grpc::CreateChannel(absl::StrCat("127.0.0.1:", server->ports[0]), grpc::InsecureChannelCredentials()));
  const auto call = [&](const ClusterSecret* secret, std::optional<std::string> header) {
    grpc::ClientContext context;
    if (secret != nullptr) secret->AddToken(context);
    if (header) context.AddMetadata("authorization", *header);
    stemcache::v1::DirectoryStatusReply reply;
    return stub->DirectoryStatus(&context, {}, &reply).error_code();
  };
  EXPECT_EQ(call(&ours, std::nullopt), grpc::StatusCode::OK);
  EXPECT_EQ(call(&theirs, std::nullopt), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(nullptr, std::nullopt), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(nullptr, "Bearer "), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(call(nullptr, "Bearer " + std::string(64, '0')), grpc::StatusCode::UNAUTHENTICATED);
  // HMAC-SHA256 of "stemcache/v1 peer" under 32 bytes of 0x01, computed by `openssl mac`.
  EXPECT_EQ(call(nullptr, "Bearer 52f69c02dfee2c46c1caadf99dafd098c4646358f03cfbb61fe778d8a5bc7ace"), grpc::StatusCode::OK);
  server->server->Shutdown();
}

}  // namespace
}  // namespace stem
