#include "client/example/router.h"

#include <gtest/gtest.h>

namespace stem::example {
namespace {

stemcache::v1::ScoreReply Scores(const std::vector<std::array<uint32_t, 3>>& dram_ssd_health) {
  stemcache::v1::ScoreReply reply;
  for (const auto& [dram, ssd, health] : dram_ssd_health) {
    auto* const node = reply.add_nodes();
    node->set_matched_blocks(dram + ssd);
    node->set_dram_blocks(dram);
    node->set_ssd_blocks(ssd);
    node->set_health_percent(health);
  }
  return reply;
}

TEST(RouterTest, LongestStemWinsAndSsdCountsHalf) {
  EXPECT_EQ(PickReplica(Scores({{3, 0, 100}, {5, 0, 100}, {0, 8, 100}}), 0), 1u);
  EXPECT_EQ(PickReplica(Scores({{3, 0, 100}, {5, 0, 100}, {0, 12, 100}}), 0), 2u);
}

TEST(RouterTest, SickReplicaMustHoldThatMuchMore) {
  EXPECT_EQ(PickReplica(Scores({{10, 0, 40}, {5, 0, 100}}), 0), 1u);
  EXPECT_EQ(PickReplica(Scores({{13, 0, 40}, {5, 0, 100}}), 1), 0u);
}

TEST(RouterTest, TiesAndUnknownPromptsKeepTheRoutersOwnChoice) {
  EXPECT_EQ(PickReplica(Scores({{0, 0, 100}, {0, 0, 100}, {0, 0, 100}}), 2), 2u);
  EXPECT_EQ(PickReplica(Scores({{4, 0, 100}, {4, 0, 100}, {4, 0, 100}}), 1), 1u);
  EXPECT_EQ(PickReplica(Scores({{4, 0, 100}, {4, 0, 100}, {0, 0, 100}}), 2), 0u);
}

}  // namespace
}  // namespace stem::example
