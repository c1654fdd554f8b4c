// Stack distances against a list that is walked.
#include "storage/policy/lru_stack.h"

#include <algorithm>
#include <list>
#include <random>

#include "gtest/gtest.h"

namespace stem {
namespace {

struct Used {
  uint32_t id = 0;
  uint32_t weight = 0;
};

uint64_t Walk(const std::list<Used>& list, uint32_t id) {
  uint64_t depth = 0;
  for (const Used& used : list) {
    depth += used.weight;
    if (used.id == id) return depth;
  }
  return 0;
}

TEST(LruStack, IsWhatAWalkedListSays) {
  std::mt19937_64 random(9);
  LruStack stack;
  std::list<Used> list;
  for (int i = 0; i < 30'000; ++i) {
    const auto id = static_cast<uint32_t>(std::min(random() % 400, random() % 400));
    ASSERT_EQ(stack.Depth(id), Walk(list, id)) << i;
    const auto known = std::find_if(list.begin(), list.end(), [id](const Used& used) { return used.id == id; });
    const uint32_t weight = known == list.end() ? 1 + id % 5 : known->weight;
    if (known != list.end()) list.erase(known);
    list.push_front({id, weight});
    stack.Use(id, weight);
    if (i % 1000 != 999) continue;
    const std::vector<uint32_t> taken = stack.TakeOldest(50);
    ASSERT_EQ(taken.size(), std::min<size_t>(50, list.size()));
    for (const uint32_t gone : taken) {
      ASSERT_EQ(gone, list.back().id);
      list.pop_back();
      ASSERT_EQ(stack.Depth(gone), 0u);
    }
    ASSERT_EQ(stack.size(), list.size());
  }
}

TEST(LruStack, TakesNoMoreThanItHas) {
  LruStack stack;
  stack.Use(3, 7);
  EXPECT_EQ(stack.Depth(3), 7u);
  EXPECT_EQ(stack.Depth(99), 0u);
  EXPECT_EQ(stack.TakeOldest(10), std::vector<uint32_t>{3});
  EXPECT_EQ(stack.weight(), 0u);
}

}  // namespace
}  // namespace stem
