#include "services/console/access_token.h"

#include "gtest/gtest.h"

namespace stem {
namespace {

TEST(AccessTokenTest, OnlyTheSameTokenIsShown) {
  const std::string token = NewAccessToken();
  EXPECT_EQ(token.size(), 32u);
  EXPECT_NE(token, NewAccessToken());
  EXPECT_TRUE(ShowsToken(token, token));
  EXPECT_FALSE(ShowsToken("", token));
  EXPECT_FALSE(ShowsToken(token.substr(1), token));
  EXPECT_FALSE(ShowsToken(token + "0", token));
  EXPECT_FALSE(ShowsToken("", "")) << "where there is no token nobody shows it";
}

}  // namespace
}  // namespace stem
