// What if etcd dies, stops, forgets or loses its data: membership freezes as it was, nothing waits, and all goes on when it is back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <thread>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/runtime/etcd_client.h"
#include "tests/support/fleet_fixture.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::SizeIs;

constexpr char kTenant[] = R"({"uids":[1],"dram":"1MiB"})";

using EtcdFaultTest = FleetFixture;

TEST_F(EtcdFaultTest, KilledEtcdFreezesMembershipAndAllGoesOnWhenItIsBack) {
  const auto watcher = Open();
  auto node = Open();
  auto other = Open();
  auto directory = Open();
  node->RegisterNode(Node("n1"));
  other->RegisterNode(Node("n2"));
  directory->RegisterDirectory(Directory(1));
  ASSERT_TRUE(Eventually([&] { return Sees(*watcher, "n1") && Sees(*watcher, "n2") && Addresses(*watcher).size() == 1; }));
  ASSERT_TRUE(Eventually([&] { return watcher->health().connected; }));

  etcd_->Kill();
  ASSERT_TRUE(Eventually([&] { return !watcher->health().connected; }));
  other.reset();  // dies meanwhile, and cannot say so
  EXPECT_TRUE(Sees(*watcher, "n1") && Sees(*watcher, "n2"));
  EXPECT_THAT(Addresses(*watcher), ElementsAre("127.0.0.1:7401"));

  etcd_->Restart();
  EXPECT_TRUE(Eventually([&] { return watcher->health().connected && !Sees(*watcher, "n2"); })) << "its lease ends at last";
  EXPECT_TRUE(Sees(*watcher, "n1")) << "the living renewed in time";
  auto late = Open();
  late->RegisterNode(Node("n3"));
  EXPECT_TRUE(Eventually([&] { return Sees(*watcher, "n3"); }));
  EXPECT_EQ(lines_.Count("fleet_read_anew"), 0u) << "the changes since were enough";
}

TEST_F(EtcdFaultTest, MemberWhoseLeaseEndedMeanwhileRegistersAgain) {
  const auto watcher = Open();
  const auto node = Open();
  node->RegisterNode(Node("n1"));
  ASSERT_TRUE(Eventually([&] { return Sees(*watcher, "n1") && node->health().registered; }));
  const size_t registered = lines_.Count("fleet_registered");
  // What etcd does to a lease that no one renewed. Its number is in the log.
  const std::string log = lines_.text();
  const size_t at = log.find("lease=") + 6;
  int64_t lease = 0;
  ASSERT_TRUE(absl::SimpleHexAtoi(log.substr(at, log.find_first_of(" \n", at) - at), reinterpret_cast<uint64_t*>(&lease)));
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  ASSERT_TRUE(client.RevokeLease(lease).ok());
  EXPECT_TRUE(Eventually([&] { return lines_.Count("fleet_registered") > registered && Sees(*watcher, "n1"); }));
}

TEST_F(EtcdFaultTest, EtcdThatLostItsDataIsFilledAgain) {
  const auto watcher = Open();
  const auto node = Open();
  const auto directory = Open();
  node->RegisterNode(Node("n1"));
  directory->RegisterDirectory(Directory(1));
  for (int i = 0; i < 20; ++i) etcd_->Put("/t/c/tenants/chat", kTenant);  // so that the new store's revision is below
  ASSERT_TRUE(Eventually([&] { return Sees(*watcher, "n1") && watcher->snapshot()->revision >= 20; }));
  etcd_->Kill();
  etcd_->Wipe();
  etcd_->Restart();
  EXPECT_TRUE(Eventually([&] { return watcher->snapshot()->tenants.empty(); })) << "settings that are gone are gone";
  EXPECT_TRUE(Eventually([&] { return Sees(*watcher, "n1") && etcd_->Get("/t/c/directories/127.0.0.1:7401").has_value(); }));
  EXPECT_THAT(Addresses(*watcher), ElementsAre("127.0.0.1:7401"));
  EXPECT_GE(lines_.Count("fleet_read_anew"), 1u);
}

TEST_F(EtcdFaultTest, WatchFromACompactedRevisionSaysSo) {
  etcd_->Put("/t/c/tenants/gone", kTenant);
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  const int64_t revision = etcd_->revision();
  absl::Status ended;
  ASSERT_TRUE(Eventually([&] {
    ended = client.Watch("/t/c/", revision + 1, [](const EtcdChanges& changes) { return !changes.opened; });
    return !absl::IsUnavailable(ended);
  }));
  EXPECT_TRUE(absl::IsCancelled(ended)) << ended;
  etcd_->Delete("/t/c/tenants/gone");
  etcd_->Put("/t/c/tenants/new", R"({"uids":[2],"dram":"1MiB"})");
  etcd_->Compact();
  ended = client.Watch("/t/c/", revision + 1, [](const EtcdChanges&) { return true; });
  EXPECT_TRUE(absl::IsOutOfRange(ended)) << ended;
}

TEST_F(EtcdFaultTest, FleetReadsAnewWhenWhatItMissedIsCompacted) {
  etcd_->Put("/t/c/tenants/gone", kTenant);
  const auto fleet = Open();
  fleet->RegisterNode(Node("n1"));
  ASSERT_TRUE(Eventually([&] { return fleet->health().connected && Sees(*fleet, "n1"); }));
  ASSERT_THAT(fleet->snapshot()->tenants, SizeIs(1));
  etcd_->Kill();
  ASSERT_TRUE(Eventually([&] { return !fleet->health().connected; }));
  etcd_->RestartElsewhere();  // the fleet cannot see this
  etcd_->Delete("/t/c/tenants/gone");
  etcd_->Put("/t/c/tenants/new", R"({"uids":[2],"dram":"1MiB"})");
  etcd_->Compact();
  etcd_->Kill();
  EXPECT_EQ(fleet->snapshot()->tenants.count("gone"), 1u) << "frozen";
  etcd_->Restart();
  EXPECT_TRUE(Eventually([&] { return fleet->health().connected && fleet->snapshot()->tenants.count("new") == 1; }));
  EXPECT_EQ(fleet->snapshot()->tenants.count("gone"), 0u);
  EXPECT_GE(lines_.Count("fleet_read_anew"), 1u);
  EXPECT_TRUE(Eventually([&] { return Sees(*fleet, "n1") && fleet->health().registered; }));
}

TEST_F(EtcdFaultTest, StoppedEtcdHoldsNothingUp) {
  const auto fleet = Open();
  auto leaving = Open();
  leaving->RegisterNode(Node("n1"));
  ASSERT_TRUE(Eventually([&] { return Sees(*fleet, "n1"); }));
  etcd_->Pause();
  EtcdClient client({etcd_->endpoint()}, absl::Milliseconds(300));
  EXPECT_TRUE(absl::IsUnavailable(client.Get("k").status()));
  EXPECT_TRUE(absl::IsUnavailable(client.GrantLease(absl::Seconds(1)).status()));
  leaving.reset();  // its last word, to give the key up, has a deadline
  EXPECT_TRUE(Sees(*fleet, "n1"));
  etcd_->Resume();
  EXPECT_TRUE(Eventually([&] { return !Sees(*fleet, "n1"); }));
}

TEST_F(EtcdFaultTest, ProcessStartsWithoutEtcdAndJoinsWhenItComes) {
  FleetOptions options = Options();
  options.first_wait = absl::Milliseconds(100);
  etcd_->Kill();
  const auto node = Open(options, {"127.0.0.1:9"});
  node->RegisterNode(Node("n1"));
  EXPECT_FALSE(node->health().connected);
  EXPECT_THAT(Addresses(*node), ElementsAre("127.0.0.1:9"));
  EXPECT_EQ(lines_.Count("etcd_not_heard"), 1u);
  etcd_->Restart();
  EXPECT_TRUE(Eventually([&] { return node->health().connected && node->health().registered && Sees(*node, "n1"); }));
  EXPECT_THAT(Addresses(*node), ElementsAre("127.0.0.1:9")) << "etcd names none yet";
}

TEST_F(EtcdFaultTest, OtherEndpointsAreAskedWhenOneIsDead) {
  EtcdProcess dead;
  const std::string dead_endpoint = dead.endpoint();
  dead.Kill();
  FleetOptions options = Options();
  options.etcd = {dead_endpoint, etcd_->endpoint(), dead_endpoint};
  const auto fleet = Open(options);
  fleet->RegisterNode(Node("n1"));
  EXPECT_TRUE(Eventually([&] { return fleet->health().connected && Sees(*fleet, "n1"); }));
}

TEST_F(EtcdFaultTest, ShutdownEndsAWatchThatIsQuiet) {
  EtcdClient client({etcd_->endpoint()}, absl::Seconds(10));
  std::thread ender;
  absl::Status ended;
  do {  // a slow machine may not be connected at once
    ended = client.Watch("/t/", 1, [&](const EtcdChanges& changes) {
      if (changes.opened) ender = std::thread([&] { client.Shutdown(); });
      return true;
    });
  } while (absl::IsUnavailable(ended));
  ASSERT_TRUE(ender.joinable()) << ended;
  ender.join();
  EXPECT_TRUE(absl::IsCancelled(ended)) << ended;
  EXPECT_TRUE(absl::IsCancelled(client.Get("k").status()));
}

}  // namespace
}  // namespace stem
