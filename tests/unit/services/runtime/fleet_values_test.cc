// What may stand in etcd, what is refused and why, and what stays when something bad comes.
#include "services/runtime/fleet_values.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::SizeIs;
using ::testing::UnorderedElementsAre;

constexpr char kDirectory[] = R"({"incarnation":"00000000000000a1","address":"10.0.0.1:7400"})";
constexpr char kSpec[] =
    R"({"owner":"chat","spec":{"model":"m","kv_dtype":"bf16","layout":"nhd","block_tokens":16,)"
    R"("hash_scheme":"HASH_SCHEME_XXH3","parts":[{"group":"GROUP_KIND_FULL","layer_count":2,"head_count":1,"block_bytes":4096}]}})";

template <typename T>
void ExpectRefused(const absl::StatusOr<T>& value, const std::string& words) {
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(value.status().message()), HasSubstr(words));
}

TEST(FleetValues, MemberComesBackAsItWasWritten) {
  const FleetMember member{.name = "n1", .incarnation = 0xfedcba9876543210, .address = "[::1]:7410", .host_id = "h", .zone = "z\"1"};
  const absl::StatusOr<FleetMember> read = ParseMember("n1", FormatMember(member));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, member);
}

TEST(FleetValues, MemberOfANewerVersionIsUnderstood) {
  EXPECT_TRUE(ParseMember("n", R"({"incarnation":"00000000000000a1","address":"a:1","color":[1,{"x":2}]})").ok());
}

TEST(FleetValues, BadMembersAreRefused) {
  ExpectRefused(ParseMember("n", "{"), "not a JSON object");
  ExpectRefused(ParseMember("n", "[]"), "not a JSON object");
  ExpectRefused(ParseMember("n", R"({"address":"a:1"})"), "'incarnation'");
  ExpectRefused(ParseMember("n", R"({"incarnation":"0000000000000000","address":"a:1"})"), "not all 0");
  ExpectRefused(ParseMember("n", R"({"incarnation":"00000000000000a1","address":"nowhere"})"), "'nowhere' is not an address");
  ExpectRefused(ParseMember("n", R"({"incarnation":"00000000000000a1","address":"a:0"})"), "port must be above 0");
  ExpectRefused(ParseMember("n", R"({"incarnation":7,"address":"a:1"})"), "'incarnation' must be a text");
}

TEST(FleetValues, DeepJsonIsRefusedBeforeAnythingRecurses) {
  const std::string deep = absl::StrCat(R"({"owner":"a","spec":)", std::string(30000, '['), std::string(30000, ']'), "}");
  ExpectRefused(ParseNamespace(deep), "deeper");
}

TEST(FleetValues, TenantsAreReadAndBadOnesRefused) {
  const absl::StatusOr<FleetTenant> tenant = ParseTenant(R"({"uids":[1000,1001],"dram":"4GiB","ssd":"64GiB"})");
  ASSERT_TRUE(tenant.ok()) << tenant.status();
  EXPECT_EQ(*tenant, (FleetTenant{.uids = {1000, 1001}, .dram_bytes = 4ULL << 30, .ssd_bytes = 64ULL << 30}));
  ExpectRefused(ParseTenant(R"({"dram":"4GiB"})"), "'uids'");
  ExpectRefused(ParseTenant(R"({"uids":[-1],"dram":"4GiB"})"), "holds -1");
  ExpectRefused(ParseTenant(R"({"uids":["root"],"dram":"4GiB"})"), "holds \"root\"");
  ExpectRefused(ParseTenant(R"({"uids":[1],"dram":"4 GB"})"), "'4 GB' is not a size");
  ExpectRefused(ParseTenant(R"({"uids":[1],"dram":"4KiB"})"), "at least 1MiB");
  ExpectRefused(ParseTenant(R"({"uids":[1],"dram":"4GiB","sdd":"1GiB"})"), "'sdd' is not known; known are uids, dram, ssd");
}

TEST(FleetValues, SharedGroupsNameReadersAndPublishersApart) {
  const absl::StatusOr<FleetSharedGroup> group =
      ParseSharedGroup(R"({"readers":["chat","batch"],"publishers":["batch"],"dram":"1GiB"})");
  ASSERT_TRUE(group.ok()) << group.status();
  EXPECT_EQ(*group, (FleetSharedGroup{.readers = {"chat", "batch"},
                                      .publishers = {"batch"},
                                      .dram_bytes = 1ULL << 30,
                                      .hash_scheme = HashScheme::kSha256}));
  ExpectRefused(ParseSharedGroup(R"({"readers":["chat"],"dram":"1GiB"})"), "'publishers' is empty");
  ExpectRefused(ParseSharedGroup(R"({"readers":["a"],"publishers":[1],"dram":"1GiB"})"), "names only");
  ExpectRefused(ParseSharedGroup(R"({"readers":["a"],"publishers":["a"],"dram":"1GiB","hash":"md5"})"), "'md5'");
}

TEST(FleetValues, NamespacesPassTheSameChecksAsAtAttach) {
  const absl::StatusOr<FleetNamespace> space = ParseNamespace(kSpec);
  ASSERT_TRUE(space.ok()) << space.status();
  EXPECT_EQ(space->owner, "chat");
  EXPECT_EQ(space->spec.block_bytes_max(), 4096u);
  ExpectRefused(ParseNamespace(R"({"owner":"chat","spec":{"model":""}})"), "model");
  ExpectRefused(ParseNamespace(R"({"owner":"chat","spec":{"modell":"m"}})"), "no NamespaceSpec");
  ExpectRefused(ParseNamespace(R"({"spec":{}})"), "'owner'");
}

TEST(FleetValues, SecretsAreHexAndNeverRepeated) {
  const absl::StatusOr<ClusterSecret> secret = ParseSecret(absl::StrCat(R"({"hex":")", std::string(64, 'a'), R"("})"));
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ(secret->bytes().size(), 32u);
  EXPECT_EQ(secret->bytes()[0], 0xaa);
  ExpectRefused(ParseSecret(R"({"hex":"abcd"})"), "2 bytes");
  const absl::StatusOr<ClusterSecret> bad = ParseSecret(R"({"hex":"hunter2!"})");
  ExpectRefused(bad, "hexadecimal");
  EXPECT_EQ(std::string(bad.status().message()).find("hunter2"), std::string::npos);
}

class FleetStateTest : public ::testing::Test {
 protected:
  static std::string Tenant(int uid) { return absl::StrCat(R"({"uids":[)", uid, R"(],"dram":"1GiB"})"); }
  std::vector<FleetState::Refusal> Put(const std::string& key, const std::string& value) {
    return state_.Apply({.revision = ++revision_, .changes = {{.key = key, .value = value, .revision = revision_}}});
  }
  std::vector<FleetState::Refusal> Delete(const std::string& key) {
    return state_.Apply({.revision = ++revision_, .changes = {{.key = key, .value = std::nullopt, .revision = revision_}}});
  }

  int64_t revision_ = 1;
  FleetState state_{"/c", FleetSnapshot{.directories = {{.name = "seed:1", .address = "seed:1"}}}};
};

TEST_F(FleetStateTest, BadValueIsRefusedAndTheLastGoodOneKept) {
  EXPECT_THAT(Put("/c/tenants/chat", Tenant(7)), SizeIs(0));
  const auto refused = Put("/c/tenants/chat", R"({"uids":"all"})");
  ASSERT_THAT(refused, SizeIs(1));
  EXPECT_EQ(refused[0].key, "/c/tenants/chat");
  EXPECT_THAT(refused[0].why, HasSubstr("'uids'"));
  EXPECT_THAT(state_.Snapshot()->tenants.at("chat").uids, ElementsAre(7));
  EXPECT_EQ(state_.refused(), 1u);
  EXPECT_THAT(Put("/c/tenants/other", Tenant(8)), SizeIs(0)) << "a refusal is told once";
  EXPECT_THAT(Put("/c/tenants/chat", Tenant(9)), SizeIs(0));
  EXPECT_EQ(state_.refused(), 0u);
  EXPECT_THAT(state_.Snapshot()->tenants.at("chat").uids, ElementsAre(9));
}

TEST_F(FleetStateTest, UnknownKeysAndStrangeNamesAreRefusedWithTheKinds) {
  EXPECT_THAT(Put("/c/tennants/chat", "{}")[0].why, HasSubstr("tenants/"));
  EXPECT_THAT(Put("/c/nodes/a/b", "{}")[0].why, HasSubstr("no '/'"));
  EXPECT_THAT(Put("/c/nodes/", "{}")[0].why, HasSubstr("1 to 128 bytes"));
  EXPECT_THAT(Put("/c/secret/x", "{}")[0].why, HasSubstr("no kind of key"));
  EXPECT_THAT(Put("/c/tenants/big", std::string(kFleetValueBytesMax + 1, ' '))[0].why, HasSubstr("65537 bytes"));
}

TEST_F(FleetStateTest, UserOfTwoTenantsIsRefusedUntilTheFirstGivesItUp) {
  Put("/c/tenants/a", Tenant(7));
  EXPECT_THAT(Put("/c/tenants/b", Tenant(7))[0].why, HasSubstr("belongs to tenant 'a'"));
  EXPECT_THAT(state_.Snapshot()->tenants, ElementsAre(Key("a")));
  Put("/c/tenants/a", Tenant(8));
  EXPECT_THAT(state_.Snapshot()->tenants, ElementsAre(Key("a"), Key("b")));
}

TEST_F(FleetStateTest, TenantAndSharedGroupOfOneNameAreRefused) {
  Put("/c/tenants/a", Tenant(7));
  EXPECT_THAT(Put("/c/shared/a", R"({"readers":["a"],"publishers":["a"],"dram":"1GiB"})")[0].why, HasSubstr("a tenant has this name"));
}

TEST_F(FleetStateTest, DirectoriesAreNeverEmptied) {
  EXPECT_EQ(state_.Snapshot()->directories[0].address, "seed:1");
  EXPECT_THAT(Put("/c/directories/10.0.0.1:7400", kDirectory), SizeIs(0));
  EXPECT_THAT(state_.Snapshot()->directories, SizeIs(1)) << "the config's are replaced";
  EXPECT_THAT(Put("/c/directories/10.0.0.2:7400", kDirectory)[0].why, HasSubstr("ends with its address"));
  Delete("/c/directories/10.0.0.1:7400");
  ASSERT_THAT(state_.Snapshot()->directories, SizeIs(1));
  EXPECT_EQ(state_.Snapshot()->directories[0].address, "10.0.0.1:7400");
}

TEST_F(FleetStateTest, WholePictureRemovesWhatItLacksAndKeepsWhatItSpoils) {
  Put("/c/tenants/gone", Tenant(1));
  Put("/c/tenants/kept", Tenant(2));
  Put("/c/namespaces/m", kSpec);
  Put("/c/secret", absl::StrCat(R"({"hex":")", std::string(64, '1'), R"("})"));
  const auto refused = state_.Reset({.revision = 50,
                                     .entries = {{.key = "/c/namespaces/m", .value = kSpec},
                                                 {.key = "/c/tenants/kept", .value = "spoilt"},
                                                 {.key = "/c/tenants/new", .value = Tenant(3)}}});
  EXPECT_THAT(refused, SizeIs(1));
  const auto now = state_.Snapshot();
  EXPECT_EQ(now->revision, 50);
  EXPECT_THAT(now->tenants, UnorderedElementsAre(Key("kept"), Key("new")));
  EXPECT_THAT(now->tenants.at("kept").uids, ElementsAre(2));
  EXPECT_THAT(now->namespaces, SizeIs(1));
  EXPECT_EQ(now->secret, nullptr);
}

TEST_F(FleetStateTest, UserMovesBetweenTenantsInOnePicture) {
  Put("/c/tenants/a", Tenant(1));
  Put("/c/tenants/b", Tenant(2));
  const auto refused = state_.Reset({.revision = 50,
                                     .entries = {{.key = "/c/tenants/a", .value = Tenant(2)},
                                                 {.key = "/c/tenants/b", .value = Tenant(3)}}});
  EXPECT_THAT(refused, SizeIs(0));
  EXPECT_THAT(state_.Snapshot()->tenants.at("a").uids, ElementsAre(2));
}

TEST_F(FleetStateTest, MembersBeyondTheLimitAreRefused) {
  for (size_t i = 0; i <= kFleetDirectoriesMax; ++i) {
    const std::string address = absl::StrCat("10.0.0.1:", 1000 + i);
    const auto refused = Put(absl::StrCat("/c/directories/", address),
                             FormatMember({.name = address, .incarnation = 1, .address = address}));
    EXPECT_EQ(refused.size(), i == kFleetDirectoriesMax ? 1u : 0u);
  }
  EXPECT_THAT(state_.Snapshot()->directories, SizeIs(kFleetDirectoriesMax));
  Delete("/c/directories/10.0.0.1:1000");
  EXPECT_THAT(state_.Snapshot()->directories, SizeIs(kFleetDirectoriesMax)) << "the refused one takes its place";
}

}  // namespace
}  // namespace stem
