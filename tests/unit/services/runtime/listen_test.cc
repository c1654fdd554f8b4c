#include "services/runtime/listen.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

namespace stem {
namespace {

using ::testing::HasSubstr;

TEST(ParseHostPort, ReadsNamesAndBothFamilies) {
  const HostPort v4 = *ParseHostPort("127.0.0.1:7400");
  EXPECT_EQ(v4.host, "127.0.0.1");
  EXPECT_EQ(v4.port, 7400);
  const HostPort v6 = *ParseHostPort("[::1]:0");
  EXPECT_EQ(v6.host, "::1");
  EXPECT_EQ(v6.port, 0);
  EXPECT_EQ(v6.ToString(), "[::1]:0");
  EXPECT_EQ(ParseHostPort("localhost:65535")->ToString(), "localhost:65535");
}

TEST(ParseHostPort, RefusesTheRest) {
  for (const char* text : {"", ":", "host", "host:", ":1", "host:-1", "host:65536", "host:1x", "::1:5", "[::1]", "[]:1",
                           "a b:1", "host:99999999999", "[host]:1", "[::1:5"}) {
    EXPECT_EQ(ParseHostPort(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(IsLoopback, KnowsTheLoopbackNets) {
  EXPECT_TRUE(IsLoopback({.host = "127.0.0.1"}));
  EXPECT_TRUE(IsLoopback({.host = "127.8.9.1"}));
  EXPECT_TRUE(IsLoopback({.host = "::1"}));
  EXPECT_TRUE(IsLoopback({.host = "localhost"}));
  EXPECT_FALSE(IsLoopback({.host = "0.0.0.0"}));
  EXPECT_FALSE(IsLoopback({.host = "::"}));
  EXPECT_FALSE(IsLoopback({.host = "10.0.0.1"}));
  EXPECT_FALSE(IsLoopback({.host = "127.0.0.1.example.com"}));
}

TEST(CheckListenAddress, RemoteAddressNeedsConsentAndIsWarnedAbout) {
  std::ostringstream out;
  Logger log({.process = "t", .out = &out});
  const HostPort any{.host = "0.0.0.0", .port = 7400};
  const absl::Status refused = CheckListenAddress("--listen", any, false, log);
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("--listen: '0.0.0.0:7400'"));
  EXPECT_EQ(out.str(), "");
  EXPECT_TRUE(CheckListenAddress("--listen", any, true, log).ok());
  EXPECT_THAT(out.str(), HasSubstr("warn insecure_listener flag=--listen address=0.0.0.0:7400"));
  EXPECT_TRUE(CheckListenAddress("--listen", {.host = "127.0.0.1"}, false, log).ok());
}

}  // namespace
}  // namespace stem
