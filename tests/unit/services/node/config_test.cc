#include "services/node/config.h"

#include <unistd.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

TEST(NodeConfigTest, DefaultGroupIsThisProcesssUser) {
  const std::vector<TrustGroup> groups = *TrustGroupsOf({.dram_bytes = 7 << 20});
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].name, "default");
  EXPECT_EQ(groups[0].uids, std::vector<uid_t>{geteuid()});
  EXPECT_EQ(groups[0].dram_bytes, 7u << 20);
}

TEST(NodeConfigTest, TrustGroupIsParsed) {
  const TrustGroup group = *ParseTrustGroup("chat=1000+1001@4GiB");
  EXPECT_EQ(group.name, "chat");
  EXPECT_THAT(group.uids, ::testing::ElementsAre(1000, 1001));
  EXPECT_EQ(group.dram_bytes, 4ULL << 30);
}

TEST(NodeConfigTest, BadTrustGroupNamesTheValueAndAGoodOne) {
  for (const char* text : {"", "chat", "=1@1GiB", "chat=1000", "chat=root@1GiB", "chat=1000@12XB", "chat=1000@1KiB"}) {
    const absl::Status status = ParseTrustGroup(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("chat=1000+1001@4GiB")) << text;
  }
}

TEST(NodeConfigTest, UserInTwoGroupsIsRefused) {
  const absl::Status status = TrustGroupsOf({.groups = {"a=1@1GiB", "b=2+1@1GiB"}}).status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("user 1 is in groups 'a' and 'b'"));
  EXPECT_THAT(std::string(TrustGroupsOf({.groups = {"a=1@1GiB", "a=2@1GiB"}}).status().message()), HasSubstr("named twice"));
}

TEST(NodeConfigTest, BadDirectoryAddressNamesItsFlag) {
  EXPECT_THAT(std::string(CheckConfig({.name = "n", .directories = {"nonsense"}}).message()), HasSubstr("--directory"));
  EXPECT_FALSE(CheckConfig({.name = ""}).ok());
  EXPECT_TRUE(CheckConfig({.name = "n", .directories = {"127.0.0.1:7400"}}).ok());
}

}  // namespace
}  // namespace stem
