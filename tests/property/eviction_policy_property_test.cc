// What every policy promises, for any order of events: the victim is held, there is one while anything is held, asked again it is
// the same, unknown ids are ignored, ids can be used again; and wrapped leaf-first, no block is left without its parent.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "storage/policy/policies.h"
#include "tests/support/policy_driver.h"

namespace stem {
namespace {

constexpr size_t kCapacity = 40;
constexpr uint64_t kKeys = 400;  // key n's parent is n / 3; keys 1 and 2 start chains

std::vector<uint64_t> ChainTo(uint64_t key) {
  std::vector<uint64_t> chain;
  for (; key > 0; key /= 3) chain.insert(chain.begin(), key);
  return chain;
}

class EvictionPolicyPropertyTest : public ::testing::TestWithParam<PolicyKind> {
 protected:
  void ExpectNoOrphan(const PolicyDriver& tier) {
    for (const auto& [key, id] : tier.held()) {
      ASSERT_TRUE(key < 3 || tier.holds(key / 3)) << "block " << key << " is held without its parent";
    }
  }
  // A block and all that hangs on it, as quarantine does.
  void DropSubtree(PolicyDriver& tier, uint64_t key) {
    std::vector<uint64_t> subtree;
    for (const auto& [held, id] : tier.held()) {
      const std::vector<uint64_t> chain = ChainTo(held);
      if (std::find(chain.begin(), chain.end(), key) != chain.end()) subtree.push_back(held);
    }
    std::sort(subtree.rbegin(), subtree.rend());
    for (const uint64_t gone : subtree) tier.Drop(gone);
  }
  void Step(PolicyDriver& tier, std::mt19937_64& random, bool closed) {
    const uint64_t key = 1 + random() % (kKeys - 1);
    switch (random() % 8) {
      case 0:
        if (closed) DropSubtree(tier, key);
        if (!closed && tier.holds(key)) tier.Drop(key);
        break;
      case 1:
        if (tier.holds(key)) tier.policy().Defer(tier.held().at(key));
        break;
      case 2:
        tier.policy().Remove(100'000);
        tier.policy().Touch(100'000, {});
        tier.policy().Defer(100'000);
        break;
      default: tier.Request(ChainTo(random() % 4 == 0 ? key : 1 + key % 60));
    }
  }
  void Drain(PolicyDriver& tier) {
    while (!tier.held().empty() && !::testing::Test::HasFailure()) tier.Evict();
    EXPECT_FALSE(tier.policy().Victim().has_value());
  }
};

TEST_P(EvictionPolicyPropertyTest, PlainKeepsItsPromises) {
  const uint64_t first_seed = std::random_device()();
  for (uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    PolicyDriver tier(MakePolicy(GetParam(), kCapacity), kCapacity);
    for (int step = 0; step < 3000 && !HasFailure(); ++step) {
      Step(tier, random, GetParam() == PolicyKind::kStem);  // which keeps law 7 by itself and relies on it
    }
    Drain(tier);
    if (HasFailure()) return;
  }
}

TEST_P(EvictionPolicyPropertyTest, LeafFirstLeavesNoOrphan) {
  const uint64_t first_seed = std::random_device()();
  for (uint64_t seed = first_seed; seed < first_seed + 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random(seed);
    PolicyDriver tier(MakeLeafFirstPolicy(GetParam(), kCapacity), kCapacity);
    for (int step = 0; step < 3000 && !HasFailure(); ++step) {
      Step(tier, random, true);
      ExpectNoOrphan(tier);
    }
    Drain(tier);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, EvictionPolicyPropertyTest, ::testing::ValuesIn(AllPolicies()),
                         [](const auto& param) { return std::string(NameOf(param.param)); });

}  // namespace
}  // namespace stem
