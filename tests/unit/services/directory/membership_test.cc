// How sound a node is thought to be, and what that changes: peers' reports, newcomers, load.
#include "services/directory/membership.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>

#include "services/directory/chain_match.h"
#include "services/directory/holder_stream.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using namespace ::stem::testing;  // NOLINT: message builders

class MembershipTest : public ::testing::Test {
 protected:
  HolderStream& Join(const std::string& name, uint64_t keys = 4) {
    auto& stream = streams_[name] = std::make_unique<HolderStream>(membership_, index_);
    Send(name, HelloOf(name, 1));
    Send(name, SnapshotOf(keys, space_, {Adds(KeysOf(0, keys))}));
    return *stream;
  }
  void Send(const std::string& name, const v1::AnnounceMessage& message) {
    const auto outcome = streams_[name]->OnMessage(message, now_);
    ASSERT_TRUE(outcome.ok()) << outcome.status();
  }
  // `name` tells how its reads from `peer` went.
  void Report(const std::string& name, const std::string& peer, uint32_t reads, uint32_t late, uint32_t wrong = 0) {
    v1::AnnounceMessage beat = BeatOf(4);
    v1::PeerReport* report = beat.mutable_heartbeat()->add_peers();
    report->set_node(peer);
    report->set_reads(reads);
    report->set_deadline_misses(late);
    report->set_failed_proofs(wrong);
    Send(name, beat);
  }
  void Pass(absl::Duration time) {
    for (absl::Duration passed; passed < time; passed += absl::Milliseconds(50)) {
      now_ += absl::Milliseconds(50);
      for (const auto& [name, stream] : streams_) Send(name, BeatOf(4));
    }
  }
  uint32_t Trust(const std::string& name) {
    now_ += absl::Milliseconds(101);  // a view is good for a heartbeat
    const auto view = membership_.View(now_);
    return view->nodes[view->IndexOf(name)].trust_percent;
  }
  // Of 200 chains that a and b both hold, how many go to `name`.
  int Chosen(const std::string& name) {
    const auto view = membership_.View(now_);
    int chosen = 0;
    for (uint64_t key = 0; key < 200; ++key) {
      const ChainMatch match = MatchChain(index_, *view, {.space = space_, .keys = KeysOf(key, 1), .parts = {{.id = 0}}, .requester = ""});
      chosen += !match.runs.empty() && view->nodes[match.runs[0].node].address->node() == name ? 1 : 0;
    }
    return chosen;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  const NamespaceFingerprint space_ = SpaceOf(1);
  PrefixIndex index_{{.bytes_max = 64 << 20, .ghosts_max = 64}};
  Membership membership_{index_, {.started = now_}};
  std::map<std::string, std::unique_ptr<HolderStream>> streams_;
};

TEST_F(MembershipTest, LateReadsLowerTrustAndTimeBringsItBack) {
  Join("a");
  Join("b");
  EXPECT_EQ(Trust("b"), 100u);
  Report("a", "b", 10, 0);
  EXPECT_EQ(Trust("b"), 100u);
  Report("a", "b", 20, 20);
  EXPECT_LT(Trust("b"), 20u);
  EXPECT_EQ(Trust("a"), 100u);
  Pass(absl::Seconds(5));
  const uint32_t later = Trust("b");
  EXPECT_GT(later, 25u);
  EXPECT_LT(later, 60u);
  Pass(absl::Seconds(20));
  EXPECT_EQ(Trust("b"), 100u);
}

TEST_F(MembershipTest, OneWrongByteWeighsAsMuchAsTenLateReads) {
  Join("a");
  Join("b");
  Join("c");
  Report("a", "b", 10, 10);
  Report("a", "c", 1, 0, 1);
  EXPECT_EQ(Trust("b"), Trust("c"));
}

TEST_F(MembershipTest, SickHolderIsAvoidedUnlessItIsTheOnlyOne) {
  Join("a", 200);
  Join("b", 200);
  EXPECT_NEAR(Chosen("b"), 100, 50);
  Report("a", "b", 100, 100);
  now_ += absl::Milliseconds(101);
  EXPECT_LT(Chosen("b"), 5);
  Send("a", BatchOf(201, space_, {Removes(KeysOf(0, 200))}));
  EXPECT_EQ(Chosen("b"), 200) << "better than nothing";
}

TEST_F(MembershipTest, BusyHolderServesLess) {
  Join("a", 200);
  Join("b", 200);
  v1::AnnounceMessage beat = BeatOf(200);
  beat.mutable_heartbeat()->set_reads_active(56);  // an eighth of its part
  Send("b", beat);
  now_ += absl::Milliseconds(101);
  EXPECT_LT(Chosen("b"), 60);
  EXPECT_GT(Chosen("b"), 2);
}

TEST_F(MembershipTest, NewcomerToARunningClusterGrowsIntoItsPart) {
  Join("a");
  EXPECT_EQ(Trust("a"), 100u) << "it came with the directory";
  Pass(absl::Seconds(5));
  Join("b");
  EXPECT_LT(Trust("b"), 15u);
  Pass(absl::Seconds(5));
  EXPECT_NEAR(Trust("b"), 55u, 10u);
  Pass(absl::Seconds(6));
  EXPECT_EQ(Trust("b"), 100u);
}

TEST_F(MembershipTest, ReportsOnStrangersChangeNothing) {
  Join("a");
  Report("a", "nobody", 10, 10);
  EXPECT_EQ(Trust("a"), 100u);
}

}  // namespace
}  // namespace stem
