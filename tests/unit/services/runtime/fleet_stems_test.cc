// What several nodes saw of the same stem is one row.
#include "services/runtime/fleet_stems.h"

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using stemcache::v1::HotStemsReply;

HotStemsReply::Stem Stem(const std::string& key, double rate, double hit, const std::string& space = "0123456789abcdef") {
  HotStemsReply::Stem stem;
  stem.set_namespace_fingerprint(space);
  stem.set_key(key);
  stem.set_requests_per_minute(rate);
  stem.set_requests(10);
  stem.set_hit_fraction(hit);
  return stem;
}

TEST(FleetStems, StemsOfSeveralNodesAreAddedUp) {
  HotStemsReply one, two;
  *one.add_stems() = Stem("a", 30, 1);
  *one.add_stems() = Stem("b", 50, 0);
  *two.add_stems() = Stem("a", 90, 0);
  two.mutable_stems(0)->set_parent("p");
  *two.add_stems() = Stem("b", 5, 1, "another space   ");
  const std::vector<FleetStem> stems = MergeStems({{"node-1", &one}, {"node-2", &two}}, SIZE_MAX);
  ASSERT_EQ(stems.size(), 3u);
  EXPECT_EQ(stems[0].stem.key(), "a");
  EXPECT_DOUBLE_EQ(stems[0].stem.requests_per_minute(), 120);
  EXPECT_DOUBLE_EQ(stems[0].stem.hit_fraction(), 0.25);
  EXPECT_EQ(stems[0].stem.requests(), 20u);
  EXPECT_EQ(stems[0].stem.parent(), "p") << "whoever knows it says it";
  EXPECT_THAT(stems[0].nodes, ElementsAre("node-1", "node-2"));
  EXPECT_THAT(stems[1].nodes, ElementsAre("node-1"));
}

TEST(FleetStems, BusiestFirstAndNoMoreThanAsked) {
  HotStemsReply one;
  for (int i = 0; i < 5; ++i) *one.add_stems() = Stem(std::string(1, static_cast<char>('a' + i)), i == 3 ? 9 : 1, 0);
  const std::vector<FleetStem> stems = MergeStems({{"node-1", &one}}, 2);
  ASSERT_EQ(stems.size(), 2u);
  EXPECT_EQ(stems[0].stem.key(), "d");
  EXPECT_EQ(stems[1].stem.key(), "a") << "of equals by key";
}

}  // namespace
}  // namespace stem
