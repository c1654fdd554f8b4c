#include "proto/trace_context.h"

#include <gtest/gtest.h>

namespace stem {
namespace {

constexpr char kGood[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";  // the specification's example

TEST(TraceContextTest, ReadsAndWritesTheSpecificationsExample) {
  const std::optional<TraceContext> context = ParseTraceparent(kGood);
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->trace_high, 0x0af7651916cd43ddULL);
  EXPECT_EQ(context->trace_low, 0x8448eb211c80319cULL);
  EXPECT_EQ(context->span, 0xb7ad6b7169203331ULL);
  EXPECT_TRUE(context->sampled);
  EXPECT_EQ(context->TraceId(), "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(ToTraceparent(*context), kGood);
}

TEST(TraceContextTest, TheLowestFlagAloneSaysSampled) {
  EXPECT_FALSE(ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02")->sampled);
  EXPECT_TRUE(ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff")->sampled);
}

TEST(TraceContextTest, ALaterVersionMayBeLonger) {
  EXPECT_TRUE(ParseTraceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more").has_value());
  EXPECT_TRUE(ParseTraceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").has_value());
}

TEST(TraceContextTest, GarbageIsNoContext) {
  for (const std::string text : {"", "x", "00-a-b-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
                                 "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-011",
                                 "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                                 "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01more",
                                 "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                                 "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                                 "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                                 "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                                 "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
                                 "00-0af7651916cd43dd8448eb211c80319g-b7ad6b7169203331-01"}) {
    EXPECT_FALSE(ParseTraceparent(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace stem
