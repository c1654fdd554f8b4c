// Members and settings in a real etcd: who registers is seen, who goes is forgotten, what is settled reaches everyone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "proto/mutex.h"
#include "services/runtime/etcd_client.h"
#include "tests/support/fleet_fixture.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

using EtcdFleetTest = FleetFixture;

TEST_F(EtcdFleetTest, MemberIsSeenByAllAndGoneWhenItEnds) {
  const auto watcher = Open();
  auto node = Open();
  node->RegisterNode(Node("n1", 0xabc));
  ASSERT_TRUE(Eventually([&] { return Sees(*watcher, "n1") && node->health().registered; }));
  const FleetMember seen = watcher->snapshot()->nodes.at("n1");
  EXPECT_EQ(seen, Node("n1", 0xabc));
  const nlohmann::json raw = nlohmann::json::parse(etcd_->Get("/t/c/nodes/n1").value());
  EXPECT_EQ(raw["incarnation"], "0000000000000abc");
  EXPECT_EQ(raw["address"], "127.0.0.1:7410");
  node.reset();
  EXPECT_EQ(etcd_->Get("/t/c/nodes/n1"), std::nullopt) << "a good end gives the key up at once";
  EXPECT_TRUE(Eventually([&] { return !Sees(*watcher, "n1"); }));
}

TEST_F(EtcdFleetTest, MemberThatFallsSilentExpires) {
  const auto watcher = Open();
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  const absl::StatusOr<EtcdLease> lease = client.GrantLease(absl::Seconds(1));
  ASSERT_TRUE(lease.ok()) << lease.status();
  ASSERT_TRUE(client.Put("/t/c/nodes/silent", R"({"incarnation":"0000000000000001","address":"a:1"})", lease->id).ok());
  EXPECT_TRUE(Eventually([&] { return Sees(*watcher, "silent"); }));
  EXPECT_TRUE(Eventually([&] { return !Sees(*watcher, "silent"); }));
  EXPECT_TRUE(Eventually([&] { return absl::IsNotFound(client.KeepAlive(lease->id)); }));
}

TEST_F(EtcdFleetTest, MemberOutlivesManyLeases) {
  const auto node = Open();
  node->RegisterNode(Node("n1"));
  ASSERT_TRUE(Eventually([&] { return Sees(*node, "n1"); }));
  const int64_t revision = etcd_->revision();
  // Longer than its lease: the silent one, granted later for as long, is what tells the time.
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  for (int i = 0; i < 2; ++i) {
    const absl::StatusOr<EtcdLease> lease = client.GrantLease(absl::Seconds(1));
    ASSERT_TRUE(client.Put("/t/clock", "tick", lease->id).ok());
    ASSERT_TRUE(Eventually([&] { return !etcd_->Get("/t/clock").has_value(); }));
  }
  EXPECT_TRUE(Sees(*node, "n1"));
  EXPECT_EQ(etcd_->revision(), revision + 4) << "only the clock's: a renewal changes nothing, and nothing was put again";
}

TEST_F(EtcdFleetTest, DeletedMemberRegistersAgain) {
  const auto node = Open();
  node->RegisterNode(Node("n1"));
  ASSERT_TRUE(Eventually([&] { return etcd_->Get("/t/c/nodes/n1").has_value() && node->health().registered; }));
  etcd_->Delete("/t/c/nodes/n1");
  EXPECT_TRUE(Eventually([&] { return etcd_->Get("/t/c/nodes/n1").has_value() && node->health().registered; }));
}

TEST_F(EtcdFleetTest, NextLifeTakesTheNameAtOnceAndTheOldOneDoesNotComeBack) {
  auto first = Open();
  first->RegisterNode(Node("n1", 1));
  ASSERT_TRUE(Eventually([&] { return Sees(*first, "n1"); }));
  auto second = Open();
  second->RegisterNode(Node("n1", 2));
  ASSERT_TRUE(Eventually([&] { return first->snapshot()->nodes.at("n1").incarnation == 2; }));
  first.reset();  // its lease ends, and holds the key no more
  EXPECT_TRUE(absl::StrContains(etcd_->Get("/t/c/nodes/n1").value(), "0000000000000002"));
}

TEST_F(EtcdFleetTest, DirectoriesComeAndGoAndTheLastIsKept) {
  Mutex mutex;
  std::vector<std::string> told;  // outlives the node, which tells
  FleetOptions options = Options();
  const auto node = Open(options, {"127.0.0.1:9"});
  EXPECT_THAT(Addresses(*node), ElementsAre("127.0.0.1:9"));
  node->Follow([&](const std::shared_ptr<const FleetSnapshot>& snapshot) {
    MutexLock lock(mutex);
    told = NearestDirectories(*snapshot, Node("n1"));
  });
  auto one = Open();
  auto two = Open();
  one->RegisterDirectory(Directory(1));
  const auto told_are = [&](const std::vector<std::string>& addresses) {
    return Eventually([&] {
      MutexLock lock(mutex);
      std::vector<std::string> sorted = told;
      std::sort(sorted.begin(), sorted.end());
      return sorted == addresses;
    });
  };
  EXPECT_TRUE(told_are({"127.0.0.1:7401"}));
  two->RegisterDirectory(Directory(2));
  EXPECT_TRUE(told_are({"127.0.0.1:7401", "127.0.0.1:7402"}));
  one.reset();
  EXPECT_TRUE(told_are({"127.0.0.1:7402"}));
  two.reset();
  etcd_->Put("/t/c/tenants/after", R"({"uids":[1],"dram":"1MiB"})");
  ASSERT_TRUE(Eventually([&] { return node->snapshot()->tenants.count("after") > 0; }));
  EXPECT_TRUE(told_are({"127.0.0.1:7402"}));
}

TEST_F(EtcdFleetTest, SettingsReachEveryoneAndBadOnesAreRefusedWithKeyAndReason) {
  etcd_->Put("/t/c/tenants/chat", R"({"uids":[1000],"dram":"1GiB"})");
  etcd_->Put("/t/c/secret", absl::StrCat(R"({"hex":")", std::string(64, '7'), R"("})"));
  etcd_->Put("/t/other/tenants/not-ours", R"({"uids":[1],"dram":"1GiB"})");
  const auto fleet = Open();
  EXPECT_THAT(fleet->snapshot()->tenants, SizeIs(1)) << "what was there is known when Open returns";
  ASSERT_NE(fleet->snapshot()->secret, nullptr);
  etcd_->Put("/t/c/tenants/chat", R"({"uids":[1000,1001],"dram":"2GiB"})");
  ASSERT_TRUE(Eventually([&] { return fleet->snapshot()->tenants.at("chat").dram_bytes == 2ULL << 30; }));
  etcd_->Put("/t/c/tenants/chat", "{\"uids\":[1000,\n");
  ASSERT_TRUE(Eventually([&] { return fleet->health().refused == 1; }));
  EXPECT_THAT(fleet->snapshot()->tenants.at("chat").uids, ElementsAre(1000, 1001));
  etcd_->Delete("/t/c/tenants/chat");
  ASSERT_TRUE(Eventually([&] { return fleet->snapshot()->tenants.empty() && fleet->health().refused == 0; }));
  etcd_->Put("/t/c/secret", absl::StrCat(R"({"hex":")", std::string(64, '8'), R"("})"));
  ASSERT_TRUE(Eventually([&] { return fleet->snapshot()->secret->bytes()[0] == 0x88; }));
  const std::string log = lines_.text();
  EXPECT_TRUE(absl::StrContains(log, "fleet_value_refused key=/t/c/tenants/chat")) << log;
  EXPECT_TRUE(absl::StrContains(log, "cluster_secret_changed")) << log;
}

TEST_F(EtcdFleetTest, PictureOfManyPagesIsOfOneRevision) {
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  constexpr int kNodes = 600;  // more than two pages
  for (int i = 0; i < kNodes; ++i) {
    ASSERT_TRUE(client.Put(absl::StrCat("/t/c/nodes/", i), R"({"incarnation":"0000000000000001","address":"a:1"})", 0).ok());
  }
  const absl::StatusOr<EtcdPicture> then = client.Range("/t/c/");
  ASSERT_TRUE(then.ok()) << then.status();
  EXPECT_THAT(then->entries, SizeIs(kNodes));
  ASSERT_TRUE(client.Delete("/t/c/nodes/0").ok());
  EXPECT_THAT(client.Range("/t/c/")->entries, SizeIs(kNodes - 1));
  EXPECT_THAT(client.Range("/t/c/", then->revision)->entries, SizeIs(kNodes)) << "the past is still there";
  EXPECT_THAT(Open()->snapshot()->nodes, SizeIs(kNodes - 1));
  etcd_->Compact();
  EXPECT_TRUE(absl::IsOutOfRange(client.Range("/t/c/", then->revision).status()));
}

TEST_F(EtcdFleetTest, PutIfDoesNotOverwriteWhatHasChanged) {
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  const absl::StatusOr<int64_t> made = client.PutIf({.key = "k", .value = "1", .mod_revision = 0}, 0);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(absl::IsAborted(client.PutIf({.key = "k", .value = "2", .mod_revision = 0}, 0).status()));
  EXPECT_TRUE(client.PutIf({.key = "k", .value = "3", .mod_revision = *made}, 0).ok());
  EXPECT_EQ(client.Get("k").value()->value, "3");
  EXPECT_EQ(etcd_->Get("k"), "3");
  EXPECT_FALSE(client.Get("none").value().has_value());
  EXPECT_TRUE(absl::IsNotFound(client.PutIf({.key = "l", .value = "1", .mod_revision = 0}, 12345).status())) << "no such lease";
}

TEST(EndOfPrefix, IsTheFirstKeyBehindIt) {
  EXPECT_EQ(EndOfPrefix("/a/"), "/a0");
  EXPECT_EQ(EndOfPrefix("a\xff"), "b");
  EXPECT_EQ(EndOfPrefix("\xff"), std::string(1, '\0'));
}

}  // namespace
}  // namespace stem
