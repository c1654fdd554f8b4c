#include "proto/miss_cause.h"

#include "gtest/gtest.h"

namespace stem {
namespace {

namespace v1 = ::stemcache::v1;

TEST(MissCauseTest, CausesAreNamedAsInTheArchitecture) {
  EXPECT_EQ(CauseName(v1::MISS_CAUSE_NODE_LOST), "node_lost");
  EXPECT_EQ(CauseName(v1::MISS_CAUSE_BELOW_BLOCK), "below_block");
}

}  // namespace
}  // namespace stem
