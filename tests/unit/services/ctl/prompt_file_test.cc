#include "services/ctl/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(PromptFileTest, TokensAreAJsonListOrWords) {
  EXPECT_THAT(*ParseTokens("[1, 2,3]\n"), ElementsAre(1u, 2u, 3u));
  EXPECT_THAT(*ParseTokens("1 2\n4294967295"), ElementsAre(1u, 2u, 4294967295u));
}

TEST(PromptFileTest, WhatIsNoTokenIsNamedWithItsPlace) {
  EXPECT_THAT(ParseTokens("1 2 x").status().message(), HasSubstr("entry 2 is 'x'"));
  EXPECT_THAT(ParseTokens("-1").status().message(), HasSubstr("-1"));
  EXPECT_THAT(ParseTokens("4294967296").status().message(), HasSubstr("4294967296"));
  EXPECT_FALSE(ParseTokens(" [ ] ").ok());
}

TEST(PromptFileTest, KeysAreHexInAJsonListOrWords) {
  const std::string hex = "000102030405060708090a0b0c0d0e0f";
  EXPECT_EQ((*ParseKeys(absl::StrCat("[\"", hex, "\", \"", hex, "\"]"))).size(), 2u);
  EXPECT_EQ((*ParseKeys(hex))[0].ToHex(), hex);
  EXPECT_THAT(ParseKeys(hex.substr(1)).status().message(), HasSubstr("32 hex digits"));
  EXPECT_FALSE(ParseKeys("").ok());
}

}  // namespace
}  // namespace stem
