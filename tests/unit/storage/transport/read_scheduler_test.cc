#include "storage/transport/read_scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace stem {
namespace {

using std::chrono::seconds;

constexpr PeerId kPeer = 1;
constexpr PeerId kOther = 2;
const SteadyTime kNow = SteadyTime(seconds(1000));

// A wire that remembers; the test says what comes of each op.
class FakeWire : public ReadWire {
 public:
  absl::StatusOr<Issued> Issue(PeerId peer, OpId op, const ReadOp&, SteadyTime) override {
    if (!failure.ok()) return failure;
    issued.push_back({peer, op});
    return lands_at_once ? Issued::kLanded : Issued::kPending;
  }
  void Flush() override { flushed.push_back(issued.size()); }
  bool GiveUp(OpId op) override {
    given_up.push_back(op);
    return safe_when_given_up;
  }
  std::vector<std::pair<PeerId, OpId>> issued;
  std::vector<size_t> flushed;  // how many had been issued
  std::vector<OpId> given_up;
  absl::Status failure;
  bool lands_at_once = false;
  bool safe_when_given_up = true;
};

class ReadSchedulerTest : public testing::Test {
 protected:
  // A read of `count` ops of 100 bytes, whose callbacks append to `log_`: "a0:OK", then "a:safe OK".
  void Submit(const std::string& name, PeerId peer, size_t count, SteadyTime deadline = kNow + seconds(10)) {
    counters_.ops_queued += count;
    scheduler_.Submit(peer, std::vector<ReadOp>(count, {.destination = memory_}), deadline,
                      {.on_op = [this, name](size_t op, absl::Status status) {
                         log_.push_back(absl::StrCat(name, op, ":", absl::StatusCodeToString(status.code())));
                       },
                       .on_safe = [this, name](absl::Status status) {
                         log_.push_back(absl::StrCat(name, ":safe ", absl::StatusCodeToString(status.code())));
                       }});
  }
  using Log = std::vector<std::string>;

  std::vector<std::byte> memory_ = std::vector<std::byte>(100);
  FakeWire wire_;
  TransportCounters counters_;
  ReadScheduler scheduler_{{.peer_bytes_max = 300, .peer_ops_max = 5, .total_bytes_max = 500}, wire_, counters_, 1000};
  Log log_;
};

TEST_F(ReadSchedulerTest, ARoundIsFlushedOnceAndNeverForNothing) {
  Submit("a", kPeer, 4);
  Submit("b", kOther, 1);
  EXPECT_EQ(scheduler_.Issue(), 4u);  // three and one: the windows are full
  EXPECT_EQ(scheduler_.Issue(), 0u);
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());
  EXPECT_EQ(scheduler_.Issue(), 1u);
  EXPECT_EQ(wire_.flushed, (std::vector<size_t>{4, 5}));
}

TEST_F(ReadSchedulerTest, AnOpIsAnsweredWhenItLandsAndTheReadIsSafeAfterTheLast) {
  Submit("a", kPeer, 2);
  EXPECT_EQ(scheduler_.Issue(), 2u);
  scheduler_.Ended(wire_.issued[1].second, absl::OkStatus());
  EXPECT_EQ(log_, Log({"a1:OK"}));
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());
  EXPECT_EQ(log_, Log({"a1:OK", "a0:OK", "a:safe OK"}));
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(scheduler_.NextDeadline(), SteadyTime::max());
  EXPECT_EQ(counters_.bytes_read, 200u);
  EXPECT_EQ(counters_.bytes_in_flight, 0u);
  EXPECT_EQ(counters_.ops_queued, 0u);
}

TEST_F(ReadSchedulerTest, AReadOfNothingIsSafeAtOnce) {
  Submit("a", kPeer, 0);
  EXPECT_EQ(log_, Log({"a:safe OK"}));
}

TEST_F(ReadSchedulerTest, TheWindowsBoundWhatIsOnTheWire) {
  Submit("a", kPeer, 10);
  Submit("b", kOther, 10);
  EXPECT_EQ(scheduler_.Issue(), 5u);  // 500 bytes in all, at most 300 to one peer
  EXPECT_EQ(scheduler_.on_wire(kPeer) + scheduler_.on_wire(kOther), 5u);
  EXPECT_EQ(counters_.bytes_in_flight, 500u);
  EXPECT_EQ(scheduler_.Issue(), 0u);
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());
  EXPECT_EQ(scheduler_.Issue(), 1u);
}

TEST_F(ReadSchedulerTest, SmallOpsAreBoundedByNumber) {
  memory_.resize(1);
  Submit("a", kPeer, 10);
  EXPECT_EQ(scheduler_.Issue(), 5u);
}

TEST_F(ReadSchedulerTest, AnOpLargerThanTheWindowsGoesAlone) {
  memory_.resize(1000);
  Submit("a", kPeer, 2);
  EXPECT_EQ(scheduler_.Issue(), 1u);
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());
  EXPECT_EQ(scheduler_.Issue(), 1u);
}

TEST_F(ReadSchedulerTest, PeersTakeTurnsWhenTheTotalWindowIsFull) {
  memory_.resize(500);
  Submit("a", kPeer, 3);
  Submit("b", kOther, 3);
  for (size_t i = 0; i < 6; ++i) {
    ASSERT_EQ(scheduler_.Issue(), 1u);
    scheduler_.Ended(wire_.issued[i].second, absl::OkStatus());
  }
  for (size_t i = 1; i < 6; ++i) EXPECT_NE(wire_.issued[i].first, wire_.issued[i - 1].first) << i;
}

TEST_F(ReadSchedulerTest, AWireThatRefusesFailsTheOp) {
  wire_.failure = absl::UnavailableError("no");
  Submit("a", kPeer, 2);
  scheduler_.Issue();
  EXPECT_EQ(log_, Log({"a0:UNAVAILABLE", "a1:UNAVAILABLE", "a:safe UNAVAILABLE"}));
}

TEST_F(ReadSchedulerTest, AWireThatIsDoneAtOnceLandsTheOp) {
  wire_.lands_at_once = true;
  Submit("a", kPeer, 2);
  EXPECT_EQ(scheduler_.Issue(), 2u);
  EXPECT_EQ(log_, Log({"a0:OK", "a1:OK", "a:safe OK"}));
}

TEST_F(ReadSchedulerTest, BytesAreLandedByTheCallerOrCopied) {
  const std::vector<std::byte> from(10, std::byte{7});
  std::vector<size_t> landed;
  counters_.ops_queued += 2;
  scheduler_.Submit(kPeer, std::vector<ReadOp>(2, {.destination = memory_}), kNow,
                    {.on_safe = [](const absl::Status&) {},
                     .land = [&](size_t op, std::span<std::byte> to, std::span<const std::byte> bytes) {
                       landed.push_back(op);
                       EXPECT_EQ(to.data(), memory_.data() + 20);
                       EXPECT_EQ(bytes.data(), from.data());
                     }});
  scheduler_.Issue();
  scheduler_.Land(wire_.issued[1].second, std::span(memory_).subspan(20, 10), from);
  EXPECT_EQ(landed, std::vector<size_t>({1}));
  EXPECT_EQ(memory_[20], std::byte{0});
  Submit("b", kOther, 1);
  scheduler_.Issue();
  scheduler_.Land(wire_.issued[2].second, std::span(memory_).subspan(20, 10), from);
  EXPECT_EQ(memory_[19], std::byte{0});
  EXPECT_TRUE(std::equal(from.begin(), from.end(), memory_.begin() + 20));
  EXPECT_EQ(memory_[30], std::byte{0});
}

TEST_F(ReadSchedulerTest, ADeadlineAnswersAllBeforeAnyMemoryIsSafe) {
  Submit("a", kPeer, 5, kNow);
  scheduler_.Issue();  // 3 of 5
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());
  EXPECT_TRUE(scheduler_.Expire(kNow - seconds(1)).empty());
  EXPECT_EQ(scheduler_.Expire(kNow), std::vector<PeerId>({kPeer}));
  EXPECT_EQ(log_, Log({"a0:OK", "a1:DEADLINE_EXCEEDED", "a2:DEADLINE_EXCEEDED", "a3:DEADLINE_EXCEEDED",
                       "a4:DEADLINE_EXCEEDED", "a:safe DEADLINE_EXCEEDED"}));
  EXPECT_EQ(wire_.given_up.size(), 2u);
  EXPECT_EQ(scheduler_.Issue(), 0u);
  EXPECT_TRUE(scheduler_.idle());
  EXPECT_EQ(counters_.ops_expired, 4u);
  EXPECT_EQ(counters_.bytes_in_flight, 0u);
}

TEST_F(ReadSchedulerTest, MemoryThatTheWireMayStillWriteIsSafeOnlyWhenTheWireSaysSo) {
  wire_.safe_when_given_up = false;
  Submit("a", kPeer, 2, kNow);
  scheduler_.Issue();
  scheduler_.Expire(kNow);
  EXPECT_EQ(log_, Log({"a0:DEADLINE_EXCEEDED", "a1:DEADLINE_EXCEEDED"}));
  EXPECT_EQ(scheduler_.on_wire(kPeer), 2u);
  scheduler_.Ended(wire_.issued[0].second, absl::OkStatus());  // came after all: too late to be an answer
  EXPECT_EQ(log_.size(), 2u);
  scheduler_.Ended(wire_.issued[1].second, absl::CancelledError("closed"));
  EXPECT_EQ(log_.back(), "a:safe DEADLINE_EXCEEDED");
}

TEST_F(ReadSchedulerTest, OnlyTheReadThatIsLateExpires) {
  Submit("a", kPeer, 1, kNow);
  Submit("b", kPeer, 1, kNow + seconds(1));
  scheduler_.Issue();
  scheduler_.Expire(kNow);
  EXPECT_EQ(log_, Log({"a0:DEADLINE_EXCEEDED", "a:safe DEADLINE_EXCEEDED"}));
  EXPECT_EQ(scheduler_.NextDeadline(), kNow + seconds(1));
}

TEST_F(ReadSchedulerTest, ADeadlineOfOpsThatNeverLeftGivesNoPeerUp) {
  Submit("a", kPeer, 1);
  Submit("b", kPeer, 5, kNow);
  Submit("c", kPeer, 2);
  wire_.safe_when_given_up = false;
  scheduler_.Issue();
  EXPECT_EQ(scheduler_.on_wire(kPeer), 3u);
  Submit("d", kOther, 1, kNow - seconds(1));
  EXPECT_TRUE(scheduler_.Expire(kNow - seconds(1)).empty());
  EXPECT_EQ(log_, Log({"d0:DEADLINE_EXCEEDED", "d:safe DEADLINE_EXCEEDED"}));
}

TEST_F(ReadSchedulerTest, ALostPeerFailsItsOpsAndNoOthers) {
  Submit("a", kPeer, 4);
  Submit("b", kOther, 1);
  scheduler_.Issue();
  scheduler_.Lose(kPeer, absl::UnavailableError("gone"));
  EXPECT_EQ(log_.size(), 5u);
  EXPECT_EQ(log_.back(), "a:safe UNAVAILABLE");
  EXPECT_EQ(scheduler_.on_wire(kOther), 1u);
  ASSERT_EQ(wire_.issued[1].first, kOther);
  scheduler_.Ended(wire_.issued[1].second, absl::OkStatus());
  EXPECT_EQ(counters_.ops_failed, 4u);
  EXPECT_TRUE(scheduler_.idle());
}

TEST_F(ReadSchedulerTest, ADeadlineAfterTheLossOfThePeerAnswersNothingTwice) {
  wire_.safe_when_given_up = false;
  Submit("a", kPeer, 2, kNow);
  scheduler_.Issue();
  scheduler_.Lose(kPeer, absl::UnavailableError("gone"));
  scheduler_.Expire(kNow);
  EXPECT_EQ(log_.size(), 2u);
  EXPECT_EQ(counters_.ops_expired, 0u);
  scheduler_.LoseAll(absl::CancelledError("torn down"), true);
  EXPECT_EQ(log_.back(), "a:safe UNAVAILABLE");
  EXPECT_TRUE(scheduler_.idle());
}

}  // namespace
}  // namespace stem
