// Nodes and directories that are told nothing but where etcd is: they find each other, take their tenants, namespaces and secret from
// there, follow what changes while they run, and go on alone when etcd dies.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/cache_client.h"
#include "services/directory/directory.h"
#include "services/node/node.h"
#include "tests/support/fleet_fixture.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

class EtcdClusterTest : public FleetFixture {
 protected:
  void SetUp() override {
    FleetFixture::SetUp();
    if (IsSkipped()) return;
    etcd_->Put("/t/c/secret", absl::StrCat(R"({"hex":")", std::string(64, '5'), R"("})"));
    PutTenant("mine", geteuid());
  }

  void PutTenant(const std::string& name, uid_t uid) {
    etcd_->Put(absl::StrCat("/t/c/tenants/", name), absl::StrCat(R"({"uids":[)", uid, R"(],"dram":"8MiB"})"));
  }
  void PutNamespace(const std::string& dtype) {
    etcd_->Put("/t/c/namespaces/only",
               absl::StrCat(R"({"owner":"mine","spec":{"model":"m","kv_dtype":")", dtype, R"(","layout":"opaque","block_tokens":16,)",
                            R"("hash_scheme":"HASH_SCHEME_XXH3","parts":[{"group":"GROUP_KIND_FULL","layer_count":1,"head_count":1,)",
                            R"("block_bytes":4096}]}})"));
  }
  std::unique_ptr<stem::Directory> StartDirectory() {
    auto directory = stem::Directory::Start(
        {.listen = "127.0.0.1:0", .http = "127.0.0.1:0", .fleet = Options(), .heartbeat_ms = 1000}, log_);
    EXPECT_TRUE(directory.ok()) << directory.status();
    return directory.ok() ? *std::move(directory) : nullptr;
  }
  std::unique_ptr<stem::Node> StartNode(const std::string& name) {
    NodeConfig config;
    config.name = name;
    config.socket = Socket(name);
    config.listen = "127.0.0.1:0";
    config.http = "127.0.0.1:0";
    config.secret_file = "";
    config.fleet = Options();
    auto node = stem::Node::Start(config, log_);
    EXPECT_TRUE(node.ok()) << node.status();
    return node.ok() ? *std::move(node) : nullptr;
  }
  std::string Socket(const std::string& name) const { return absl::StrCat(sockets_.path(), "/", name); }
  absl::Status Attach(const std::string& node) const {
    return CacheClient::Connect({.node = absl::StrCat("unix://", Socket(node)),
                                 .space = {.model = "m",
                                           .kv_dtype = "bf16",
                                           .layout = "opaque",
                                           .block_tokens = 16,
                                           .parts = {{.id = 0, .block_bytes = 4096}}},
                                 .staging_bytes = 1 << 20,
                                 .client_name = "test"},
                                absl::Now() + absl::Seconds(10))
        .status();
  }
  // To whom the node's streams stand.
  static std::set<std::string> Streams(const stem::Node& node) {
    std::set<std::string> addresses;
    const v1::NodeStatusReply status = node.Status();
    for (const v1::NodeStatusReply::Stream& stream : status.streams()) {
      if (stream.connected()) addresses.insert(stream.directory());
    }
    return addresses;
  }

  TempDirectory sockets_;
};

TEST_F(EtcdClusterTest, NodesFollowDirectoriesThatComeAndGoWhileTheyRun) {
  auto first = StartDirectory();
  const auto one = StartNode("one");
  const auto two = StartNode("two");
  ASSERT_TRUE(first != nullptr && one != nullptr && two != nullptr);
  const std::string a = first->listen_address();
  EXPECT_TRUE(Eventually([&] { return Streams(*one) == std::set{a} && Streams(*two) == std::set{a}; }));
  const auto second = StartDirectory();
  ASSERT_NE(second, nullptr);
  const std::string b = second->listen_address();
  EXPECT_TRUE(Eventually([&] { return Streams(*one) == std::set{a, b} && Streams(*two) == std::set{a, b}; }));
  first.reset();
  EXPECT_TRUE(Eventually([&] { return one->Status().streams_size() == 1 && Streams(*two) == std::set{b}; }));
  EXPECT_TRUE(etcd_->Get("/t/c/nodes/one").has_value());

  etcd_->Kill();
  ASSERT_TRUE(Eventually([&] { return lines_.Count("fleet_frozen") >= 3; }));
  EXPECT_EQ(Streams(*one), std::set{b}) << "losing etcd stops nothing";
  EXPECT_TRUE(Attach("one").ok());
  etcd_->Restart();
  const auto third = StartDirectory();
  ASSERT_NE(third, nullptr);
  EXPECT_TRUE(Eventually([&] { return Streams(*one) == std::set{b, third->listen_address()}; }));
}

TEST_F(EtcdClusterTest, UsersOfATenantChangeWhileTheNodeRuns) {
  const auto node = StartNode("one");
  ASSERT_NE(node, nullptr);
  EXPECT_TRUE(Attach("one").ok()) << Attach("one");
  PutTenant("mine", geteuid() + 1);
  EXPECT_TRUE(Eventually([&] { return absl::IsPermissionDenied(Attach("one")); }));
  PutTenant("mine", geteuid());
  EXPECT_TRUE(Eventually([&] { return Attach("one").ok(); }));
  PutTenant("other", geteuid() + 2);
  EXPECT_TRUE(Eventually([&] { return lines_.Count("tenant other is new") == 1; })) << "memory is allocated at start";
  etcd_->Delete("/t/c/tenants/mine");
  EXPECT_TRUE(Eventually([&] { return lines_.Count("tenant mine is gone") == 1; }));
  EXPECT_TRUE(Attach("one").ok()) << "it may be etcd that lost it";
}

TEST_F(EtcdClusterTest, NamespaceThatIsSettledOtherwiseIsRefusedWithTheField) {
  const auto node = StartNode("one");
  ASSERT_NE(node, nullptr);
  PutNamespace("fp8_e4m3");
  ASSERT_TRUE(Eventually([&] { return absl::IsFailedPrecondition(Attach("one")); })) << Attach("one");
  EXPECT_THAT(std::string(Attach("one").message()), HasSubstr("kv_dtype (fp8_e4m3, bf16)"));
  PutNamespace("bf16");
  EXPECT_TRUE(Eventually([&] { return Attach("one").ok(); })) << Attach("one");
}

TEST_F(EtcdClusterTest, MemberWithoutASecretAnywhereDoesNotStart) {
  etcd_->Delete("/t/c/secret");
  const auto directory = stem::Directory::Start({.listen = "127.0.0.1:0", .http = "127.0.0.1:0", .fleet = Options()}, log_);
  EXPECT_THAT(std::string(directory.status().message()), HasSubstr("no secret is kept in etcd"));
}

}  // namespace
}  // namespace stem
