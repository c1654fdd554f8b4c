// The fleet without etcd, its flags, and who is near.
#include "services/runtime/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "proto/mutex.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

std::string Why(const absl::Status& status) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

TEST(FleetOptions, BadFlagsAreNamedWithWhatIsRight) {
  EXPECT_TRUE(CheckFleetOptions({.etcd = {"127.0.0.1:2379", "[::1]:2379"}}).ok());
  EXPECT_THAT(Why(CheckFleetOptions({.etcd = {"http://a:2379"}})), HasSubstr("--etcd: 'http://a:2379'"));
  EXPECT_THAT(Why(CheckFleetOptions({.etcd = {"a:0"}})), HasSubstr("127.0.0.1:2379"));
  EXPECT_THAT(Why(CheckFleetOptions({.prefix = "stemcache"})), HasSubstr("--etcd-prefix: 'stemcache'"));
  EXPECT_THAT(Why(CheckFleetOptions({.prefix = "/a/"})), HasSubstr("/stemcache/my-cluster"));
  EXPECT_TRUE(CheckMemberName({}, "a/b").ok()) << "without etcd it is in no key";
  EXPECT_THAT(Why(CheckMemberName({.etcd = {"a:1"}}, "a/b")), HasSubstr("no '/'"));
}

TEST(StaticFleet, TellsWhatTheConfigSaysOnce) {
  std::ostringstream lines;
  Logger log({.process = "test", .out = &lines});
  auto fleet = OpenFleet({}, {"b:1", "a:1"}, log);
  ASSERT_TRUE(fleet.ok()) << fleet.status();
  Mutex mutex;
  CondVar called;
  std::vector<std::shared_ptr<const FleetSnapshot>> told;
  (*fleet)->Follow([&](const std::shared_ptr<const FleetSnapshot>& snapshot) {
    MutexLock lock(mutex);
    told.push_back(snapshot);
    called.NotifyAll();
  });
  (*fleet)->RegisterNode({.name = "n"});
  EXPECT_TRUE((*fleet)->health().connected);
  EXPECT_FALSE((*fleet)->health().registered);
  fleet->reset();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_THAT(NearestDirectories(*told[0], {.name = "n"}), ElementsAre("b:1", "a:1")) << "the config's order stands";
}

TEST(NearestDirectories, OwnHostThenOwnZoneThenTheRestSpreadByAsker) {
  FleetSnapshot fleet{.revision = 1};
  for (int i = 0; i < 8; ++i) {
    const std::string address = absl::StrCat("10.0.0.", i, ":7400");
    fleet.directories.push_back({.name = address, .address = address, .host_id = absl::StrCat("host", i), .zone = i == 3 ? "z" : "y"});
  }
  std::set<std::string> thirds;
  for (int i = 0; i < 64; ++i) {
    const FleetMember asker{.name = absl::StrCat("node-", i), .host_id = "host5", .zone = "z"};
    const std::vector<std::string> order = NearestDirectories(fleet, asker);
    ASSERT_THAT(order, SizeIs(8));
    EXPECT_EQ(order[0], "10.0.0.5:7400");
    EXPECT_EQ(order[1], "10.0.0.3:7400");
    EXPECT_EQ(order, NearestDirectories(fleet, asker)) << "stable";
    thirds.insert(order[2]);
  }
  EXPECT_EQ(thirds.size(), 6u) << "each of the others is somebody's first choice";
}

TEST(SecretOf, FileAndEtcdMustAgree) {
  TempDirectory directory;
  std::ostringstream lines;
  Logger log({.process = "test", .out = &lines});
  const std::string file = directory.path() + "/secret";
  std::ofstream(file) << std::string(32, 's');
  chmod(file.c_str(), 0600);
  FleetSnapshot fleet;
  EXPECT_TRUE(SecretOf(file, fleet, log).ok());
  EXPECT_THAT(Why(SecretOf("", fleet, log).status()), HasSubstr("--secret-file is not set"));
  fleet.secret = std::make_shared<const ClusterSecret>(*ClusterSecret::FromBytes(std::vector<uint8_t>(32, 's')));
  EXPECT_TRUE(SecretOf(file, fleet, log).ok());
  EXPECT_TRUE(SecretOf("", fleet, log).ok());
  fleet.secret = std::make_shared<const ClusterSecret>(*ClusterSecret::FromBytes(std::vector<uint8_t>(32, 't')));
  EXPECT_EQ(SecretOf(file, fleet, log).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace stem
