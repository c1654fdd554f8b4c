// The core as the service uses it, on threads: streams apply and break, nodes restart, the keeper reclaims, and matches
// are answered meanwhile. For TSan; and a match must hold together whatever happens beside it.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/directory/chain_match.h"
#include "services/directory/holder_stream.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

constexpr uint64_t kBlocks = 100;

class DirectoryConcurrency : public ::testing::Test {
 protected:
  // One life of a node: a whole snapshot, batches that remove and add, the end.
  void Live(const std::string& name, uint64_t incarnation) {
    HolderStream stream(membership_, index_);
    const auto send = [&](const v1::AnnounceMessage& message) {
      const auto outcome = stream.OnMessage(message, now_);
      ASSERT_TRUE(outcome.ok()) << outcome.status();
    };
    send(HelloOf(name, incarnation));
    send(SnapshotOf(kBlocks, space_, {Adds(KeysOf(0, kBlocks))}));
    for (uint64_t i = 0; i < 10; ++i) {
      send(BatchOf(kBlocks + 1 + 20 * i, space_, {Removes(KeysOf(i * 10, 10)), Adds(KeysOf(i * 10, 10), v1::TIER_SSD)}));
      send(BeatOf(kBlocks + 20 * (i + 1)));
    }
    stream.OnClosed();
  }

  // One holder, cover without gaps, and no more than was asked.
  void MatchOnce() {
    const auto view = membership_.View(now_);
    const ChainMatch match = MatchChain(index_, *view, {.space = space_, .keys = KeysOf(0, kBlocks + 1), .parts = {{.id = 0}}, .requester = "n0"});
    uint32_t next = 0;
    for (const ChainRun& run : match.runs) {
      ASSERT_EQ(run.first, next);
      ASSERT_LT(run.node, view->nodes.size());
      ASSERT_NE(view->nodes[run.node].address->node(), "n0");
      next += run.count;
    }
    ASSERT_EQ(next, match.matched_blocks);
    for (const ChainMiss& miss : match.misses) {
      ASSERT_EQ(miss.first, next);
      next += miss.count;
    }
    ASSERT_EQ(next, kBlocks + 1);
  }

  const absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  const NamespaceFingerprint space_ = SpaceOf(1);
  PrefixIndex index_{{.bytes_max = 64 << 20, .ghosts_max = 1 << 12}};
  Membership membership_{index_, {.started = now_}};
};

TEST_F(DirectoryConcurrency, MatchesHoldTogetherWhileStreamsApplyAndBreak) {
  std::atomic<bool> stop{false};
  std::thread matcher([&] {
    while (!stop) MatchOnce();
  });
  std::thread keeper([&] {
    while (!stop) {
      membership_.Tick(now_);
      index_.Step();
      membership_.Status(now_);
    }
  });
  std::vector<std::thread> nodes;
  for (int n = 0; n < 3; ++n) {
    nodes.emplace_back([this, n] {
      for (uint64_t life = 1; life <= 30; ++life) Live(absl::StrCat("n", n), life);
    });
  }
  for (std::thread& node : nodes) node.join();
  stop = true;
  matcher.join();
  keeper.join();
  while (index_.Step()) {
  }
  EXPECT_EQ(index_.counts().blocks, kBlocks);
  const ChainMatch match = MatchChain(index_, *membership_.View(now_), {.space = space_, .keys = KeysOf(0, kBlocks), .parts = {{.id = 0}}, .requester = ""});
  EXPECT_EQ(match.matched_blocks, kBlocks);
}

}  // namespace
}  // namespace stem
