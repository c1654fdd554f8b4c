// Listening and the cluster secret over real gRPC. Apart from their unit tests because the distribution's gRPC and abseil
// are not built for ThreadSanitizer, under which those run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "grpcpp/create_channel.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/listen.h"
#include "stemcache/v1/directory.grpc.pb.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<GrpcServer> StartOn(stemcache::v1::Directory::Service& service, std::vector<HostPort> tcp,
                                   std::vector<std::string> unix_paths = {}) {
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);
  return StartGrpcServer(builder, tcp, unix_paths);
}

TEST(StartGrpcServer, PortInUseIsNamed) {
  stemcache::v1::Directory::Service service;
  auto first = StartOn(service, {{.host = "127.0.0.1"}, {.host = "127.0.0.1"}});
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->ports.size(), 2u);
  EXPECT_NE(first->ports[0], first->ports[1]);
  const HostPort taken{.host = "127.0.0.1", .port = first->ports[0]};
  stemcache::v1::Directory::Service other;
  const auto second = StartOn(other, {taken});
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.status().message(), absl::StrCat("cannot listen on ", taken.ToString(), ": Address already in use"));
  first->server->Shutdown();
}

TEST(StartGrpcServer, UnknownHostIsNamed) {
  stemcache::v1::Directory::Service service;
  const auto server = StartOn(service, {{.host = "no.such.host.invalid", .port = 1}});
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("cannot listen on no.such.host.invalid:1: "));
}

TEST(StartGrpcServer, SocketFileInUseIsNotStolenAndAStaleOneIsReplaced) {
  const std::string path = std::filesystem::temp_directory_path() / absl::StrCat("stem_listen_", getpid(), ".sock");
  stemcache::v1::Directory::Service service;
  auto first = StartOn(service, {}, {path});
  ASSERT_TRUE(first.ok()) << first.status();
  stemcache::v1::Directory::Service other;
  const auto second = StartOn(other, {}, {path});
  EXPECT_EQ(second.status().message(), absl::StrCat("cannot listen on ", path, ": another process does"));
  first->server->Shutdown();
  first->server.reset();
  auto third = StartOn(other, {}, {path});
  EXPECT_TRUE(third.ok()) << third.status();
  third->server->Shutdown();
  std::filesystem::remove(path);
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
