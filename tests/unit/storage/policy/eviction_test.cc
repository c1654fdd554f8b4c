#include "storage/policy/eviction.h"

#include "gtest/gtest.h"

namespace stem {
namespace {

constexpr absl::Time kNow = absl::UnixEpoch();

TEST(LruPolicyTest, LeastRecentIsTheVictim) {
  LruPolicy lru;
  EXPECT_FALSE(lru.Victim(kNow).has_value());
  for (BlockId id : {3u, 1u, 2u}) lru.Admit(id, {}, kNow);
  EXPECT_EQ(lru.Victim(kNow), 3u);
  lru.Touch(3, kNow);
  EXPECT_EQ(lru.Victim(kNow), 1u);
  lru.Defer(1, kNow);
  EXPECT_EQ(lru.Victim(kNow), 2u);
}

TEST(LruPolicyTest, RemovedIdsCanComeAgain) {
  LruPolicy lru;
  for (BlockId id : {0u, 1u, 2u}) lru.Admit(id, {}, kNow);
  lru.Remove(1);
  lru.Remove(0);
  EXPECT_EQ(lru.Victim(kNow), 2u);
  lru.Admit(0, {}, kNow);
  lru.Remove(2);
  EXPECT_EQ(lru.Victim(kNow), 0u);
  lru.Remove(0);
  EXPECT_FALSE(lru.Victim(kNow).has_value());
}

}  // namespace
}  // namespace stem
