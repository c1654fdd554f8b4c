#include "services/directory/holder_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "services/directory/chain_match.h"
#include "tests/support/announce.h"

namespace stem {
namespace {

using ::testing::HasSubstr;
using namespace ::stem::testing;  // NOLINT: message builders

class HolderStreamTest : public ::testing::Test {
 protected:
  static constexpr absl::Duration kHeartbeat = absl::Milliseconds(100);
  static constexpr absl::Duration kStaleMax = absl::Seconds(2);

  std::unique_ptr<HolderStream> Open() { return std::make_unique<HolderStream>(membership_, index_); }

  HolderStream::Outcome Send(HolderStream& stream, const v1::AnnounceMessage& message) {
    absl::StatusOr<HolderStream::Outcome> outcome = stream.OnMessage(message, now_);
    EXPECT_TRUE(outcome.ok()) << outcome.status();
    return outcome.ok() ? *std::move(outcome) : HolderStream::Outcome();
  }
  void ExpectError(HolderStream& stream, const v1::AnnounceMessage& message, absl::StatusCode code, const char* words) {
    const absl::StatusOr<HolderStream::Outcome> outcome = stream.OnMessage(message, now_);
    EXPECT_EQ(outcome.status().code(), code) << outcome.status();
    EXPECT_THAT(std::string(outcome.status().message()), HasSubstr(words));
  }
  // A stream that said hello and sent a whole snapshot.
  std::unique_ptr<HolderStream> Whole(const std::string& node, uint64_t incarnation, uint64_t sequence = 0,
                                      const std::vector<Change>& changes = {}) {
    auto stream = Open();
    Send(*stream, HelloOf(node, incarnation));
    Send(*stream, SnapshotOf(sequence, space_, changes));
    return stream;
  }
  ChainMatch Match(const std::vector<BlockKey>& keys) {
    view_ = membership_.View(now_);
    truth_ = membership_.Truth(now_);
    return MatchChain(index_, *view_, {.space = space_, .keys = keys, .parts = {{.id = 0}}, .requester = ""});
  }
  uint32_t Matched(uint64_t first, uint64_t count) { return Match(KeysOf(first, count)).matched_blocks; }
  v1::MissCause CauseOf(uint64_t key) {
    const ChainMatch match = Match({KeyOf(key)});
    return match.misses.empty() ? v1::MISS_CAUSE_UNSPECIFIED : match.misses[0].cause;
  }

  absl::Time now_ = absl::UnixEpoch() + absl::Hours(1);
  const NamespaceFingerprint space_ = SpaceOf(1);
  PrefixIndex index_{{.bytes_max = 64 << 20, .ghosts_max = 1 << 16}};
  Membership membership_{index_, {.heartbeat = kHeartbeat, .stale_max = kStaleMax, .started = now_}};
  std::shared_ptr<const MemberView> view_;
  v1::Truth truth_;
};

TEST_F(HolderStreamTest, SnapshotThenBatchesMakeTheIndex) {
  auto stream = Whole("n1", 1, 3, {Adds(KeysOf(0, 3))});
  EXPECT_EQ(Matched(0, 5), 3u);
  const auto outcome = Send(*stream, BatchOf(4, space_, {Adds(KeysOf(3, 2)), Removes({KeyOf(4)})}));
  EXPECT_EQ(outcome.reply->acknowledge().sequence(), 6u);
  EXPECT_EQ(outcome.changes, 3u);
  EXPECT_EQ(Matched(0, 5), 4u);
  EXPECT_TRUE(truth_.exact());
}

TEST_F(HolderStreamTest, WhatAnEngineHasInItsOwnCacheIsNoBlockOfTheNode) {
  auto stream = Whole("n1", 1);
  v1::AnnounceMessage adds = BatchOf(1, space_, {Adds(KeysOf(0, 3))});
  adds.mutable_batch()->mutable_namespaces(0)->set_number(2);
  adds.mutable_batch()->mutable_namespaces(0)->set_engine_cache(true);
  adds.mutable_batch()->mutable_runs(0)->set_namespace_(2);
  Send(*stream, adds);
  EXPECT_EQ(Matched(0, 3), 3u) << "Score finds it";
  EXPECT_EQ(membership_.Status(now_)[0].message.blocks_dram(), 0u);
  EXPECT_EQ(index_.counts().blocks, 0u);
  Send(*stream, [&] {
    v1::AnnounceMessage removes = BatchOf(4, space_, {Removes(KeysOf(0, 3))});
    removes.mutable_batch()->clear_namespaces();
    removes.mutable_batch()->mutable_runs(0)->set_namespace_(2);
    return removes;
  }());
  EXPECT_EQ(Matched(0, 3), 0u);
  EXPECT_EQ(index_.counts().ghosts, 0u);
}

TEST_F(HolderStreamTest, NothingCountsUntilTheSnapshotIsWhole) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  Send(*stream, ChunkOf(4, 0, false, space_, {Adds(KeysOf(0, 2))}));
  EXPECT_EQ(Matched(0, 4), 0u);
  EXPECT_FALSE(truth_.exact());
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_UNKNOWN);
  Send(*stream, ChunkOf(4, 1, true, space_, {Adds(KeysOf(2, 2))}));
  EXPECT_EQ(Matched(0, 4), 4u);
}

TEST_F(HolderStreamTest, DuplicateIsIgnoredAndOverlapAppliedOnce) {
  auto stream = Whole("n1", 1);
  const auto first = BatchOf(1, space_, {Adds(KeysOf(0, 2)), Removes({KeyOf(0)})});
  Send(*stream, first);
  EXPECT_EQ(Send(*stream, first).changes, 0u);
  EXPECT_EQ(Matched(1, 1), 1u);
  EXPECT_EQ(Matched(0, 1), 0u) << "the duplicate's add must not come back";
  EXPECT_EQ(Send(*stream, BatchOf(3, space_, {Removes({KeyOf(0)}), Adds({KeyOf(5)})})).changes, 1u);
  EXPECT_EQ(Matched(5, 1), 1u);
}

TEST_F(HolderStreamTest, GapAsksForASnapshotAndKeepsTheOldStateAsStale) {
  auto stream = Whole("n1", 1, 2, {Adds(KeysOf(0, 2))});
  const auto outcome = Send(*stream, BatchOf(5, space_, {Adds({KeyOf(9)})}));
  EXPECT_EQ(outcome.reply->resync().expected(), 3u);
  EXPECT_EQ(outcome.reply->resync().received(), 5u);
  EXPECT_EQ(Matched(0, 2), 2u);
  EXPECT_FALSE(truth_.exact());
  EXPECT_EQ(Matched(9, 1), 0u);
  Send(*stream, SnapshotOf(5, space_, {Adds(KeysOf(1, 1)), Adds({KeyOf(9)})}));
  EXPECT_EQ(Matched(9, 1), 1u);
  EXPECT_EQ(Matched(1, 1), 1u);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_UNKNOWN) << "it left during the gap, and no one heard why";
  EXPECT_TRUE(truth_.exact());
  EXPECT_EQ(membership_.Status(now_)[0].message.resyncs(), 1u);
}

TEST_F(HolderStreamTest, GappedStateCountsNoLongerThanStaleMax) {
  auto stream = Whole("n1", 1, 2, {Adds(KeysOf(0, 2))});
  Send(*stream, BatchOf(5, space_, {Adds({KeyOf(9)})}));
  now_ += kStaleMax;
  Send(*stream, BeatOf(5));  // it speaks, but it is not whole
  EXPECT_EQ(Matched(0, 2), 2u);
  EXPECT_EQ(truth_.lagging(0).lag_ms(), 2000u);
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(Matched(0, 2), 0u);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_UNKNOWN);
}

TEST_F(HolderStreamTest, BatchBetweenChunksIsFoundMissing) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  Send(*stream, ChunkOf(2, 0, false, space_, {Adds({KeyOf(0)})}));
  Send(*stream, BatchOf(3, space_, {Adds({KeyOf(2)})}));
  Send(*stream, ChunkOf(2, 1, true, space_, {Adds({KeyOf(1)})}));
  EXPECT_EQ(Matched(0, 3), 2u);
  Send(*stream, BeatOf(3));
  const auto outcome = Send(*stream, BeatOf(3));
  EXPECT_EQ(outcome.reply->resync().expected(), 3u);
  Send(*stream, SnapshotOf(3, space_, {Adds(KeysOf(0, 3))}));
  EXPECT_EQ(Matched(0, 3), 3u);
}

TEST_F(HolderStreamTest, OneHeartbeatAheadIsOnlyStale) {
  auto stream = Whole("n1", 1);
  EXPECT_TRUE(Send(*stream, BeatOf(1)).reply->has_acknowledge());
  Matched(0, 1);
  EXPECT_FALSE(truth_.exact());
  Send(*stream, BatchOf(1, space_, {Adds({KeyOf(0)})}));
  EXPECT_TRUE(Send(*stream, BeatOf(2)).reply->has_acknowledge());
  Send(*stream, BatchOf(2, space_, {Adds({KeyOf(1)})}));
  Matched(0, 1);
  EXPECT_TRUE(truth_.exact());
}

TEST_F(HolderStreamTest, SnapshotThatDoesNotComeIsAskedForAgain) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  const auto beats_until_asked = [&] {
    uint32_t beats = 1;
    for (; beats < 10'000 && !Send(*stream, BeatOf(0)).reply.has_value(); ++beats) {
    }
    return beats;
  };
  EXPECT_EQ(beats_until_asked(), HolderStream::kRetryBeats + 1);
  EXPECT_EQ(beats_until_asked(), HolderStream::kRetryBeats * 2 + 1) << "more patience each time";
  Send(*stream, ChunkOf(4, 0, false, space_, {Adds({KeyOf(0)})}));
  EXPECT_EQ(beats_until_asked(), HolderStream::kRetryBeats * 4 + 1) << "a chunk begins the wait anew";
}

TEST_F(HolderStreamTest, NodeThatIsSendingItsFirstSnapshotIsNotGivenUpForOurOwnQueue) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  Send(*stream, ChunkOf(2, 0, false, space_, {Adds({KeyOf(0)})}));
  now_ += kStaleMax * 5;
  EXPECT_EQ(membership_.Tick(now_), 0u);
  Send(*stream, ChunkOf(2, 1, true, space_, {Adds({KeyOf(1)})}));
  EXPECT_EQ(Matched(0, 2), 2u);
  now_ += kStaleMax + absl::Milliseconds(1);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST) << "from now on silence is silence";
}

TEST_F(HolderStreamTest, EveryChunkIsAcknowledged) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  for (uint32_t i = 0; i < 3; ++i) {
    const auto reply = Send(*stream, ChunkOf(3, i, i == 2, space_, {Adds({KeyOf(i)})})).reply;
    ASSERT_TRUE(reply && reply->has_acknowledge()) << i;
    EXPECT_EQ(reply->acknowledge().chunks(), i + 1);
    EXPECT_EQ(reply->acknowledge().sequence(), i == 2 ? 3u : 0u) << "nothing counts before the last";
  }
}

TEST_F(HolderStreamTest, ChunkOutOfPlaceStartsOver) {
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1));
  Send(*stream, ChunkOf(4, 0, false, space_, {Adds({KeyOf(0)})}));
  EXPECT_TRUE(Send(*stream, ChunkOf(4, 2, true, space_, {Adds({KeyOf(2)})})).resync);
  EXPECT_EQ(Matched(0, 1), 0u);
  Send(*stream, SnapshotOf(4, space_, {Adds({KeyOf(1)})}));
  EXPECT_EQ(Matched(1, 1), 1u);
  EXPECT_EQ(Matched(0, 1), 0u) << "of the snapshot that was given up";
}

TEST_F(HolderStreamTest, OldSnapshotDoesNotUndoBatches) {
  auto stream = Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  Send(*stream, BatchOf(2, space_, {Removes({KeyOf(0)})}));
  Send(*stream, SnapshotOf(1, space_, {Adds({KeyOf(0)})}));
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_EVICTED);
}

TEST_F(HolderStreamTest, BrokenStreamIsStaleThenLost) {
  auto stream = Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  stream->OnClosed();
  EXPECT_EQ(Matched(0, 1), 1u);
  EXPECT_FALSE(truth_.exact());
  now_ += kStaleMax;
  EXPECT_EQ(membership_.Tick(now_), 0u);
  EXPECT_EQ(Matched(0, 1), 1u);
  EXPECT_EQ(truth_.lagging(0).lag_ms(), 2000u);
  EXPECT_EQ(membership_.Status(now_)[0].message.state(), "stale");
  now_ += absl::Milliseconds(1);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST) << "even before the next tick";
  EXPECT_EQ(membership_.Tick(now_), 1u);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST);
  EXPECT_EQ(membership_.Status(now_)[0].message.state(), "lost");
  while (index_.Step()) {
  }
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST);
}

TEST_F(HolderStreamTest, SilentStreamIsStaleAfterOneHeartbeat) {
  auto stream = Whole("n1", 1);
  now_ += kHeartbeat;
  Matched(0, 1);
  EXPECT_TRUE(truth_.exact());
  now_ += absl::Milliseconds(1);
  Matched(0, 1);
  EXPECT_FALSE(truth_.exact());
  EXPECT_EQ(truth_.lagging(0).node(), "n1");
  EXPECT_EQ(truth_.lagging(0).lag_ms(), 101u);
}

// Its messages may have waited in this directory's own queue: a busy directory must not make its nodes send everything again.
TEST_F(HolderStreamTest, SilentNodeIsOutOfSightAndGoesOnWhereItWas) {
  auto stream = Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  now_ += kStaleMax + absl::Milliseconds(1);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST);
  now_ += 8 * kStaleMax;
  EXPECT_EQ(membership_.Tick(now_), 0u);
  EXPECT_FALSE(Send(*stream, BatchOf(2, space_, {Adds({KeyOf(1)})})).resync);
  EXPECT_EQ(Matched(0, 2), 2u);
  EXPECT_TRUE(truth_.exact());
}

TEST_F(HolderStreamTest, NodeThatWasGivenUpMustSendASnapshot) {
  auto stream = Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  now_ += 10 * kStaleMax + absl::Milliseconds(1);
  EXPECT_EQ(membership_.Tick(now_), 1u);
  EXPECT_TRUE(Send(*stream, BatchOf(2, space_, {Adds({KeyOf(1)})})).resync);
  EXPECT_EQ(Matched(0, 1), 0u);
  Send(*stream, SnapshotOf(2, space_, {Adds(KeysOf(0, 2))}));
  EXPECT_EQ(Matched(0, 2), 2u);
}

TEST_F(HolderStreamTest, NewIncarnationKillsTheOldAtOnce) {
  auto old = Whole("n1", 1, 2, {Adds(KeysOf(0, 2))});
  auto fresh = Open();
  Send(*fresh, HelloOf("n1", 2));
  EXPECT_EQ(Matched(0, 2), 0u);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST);
  Send(*fresh, SnapshotOf(0, space_, {Adds({KeyOf(1)}, v1::TIER_SSD)}));
  EXPECT_EQ(Matched(1, 1), 1u);
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_NODE_LOST);
  ExpectError(*old, BatchOf(3, space_, {Adds({KeyOf(0)})}), absl::StatusCode::kAborted, "another stream");
  old->OnClosed();
  EXPECT_EQ(Matched(1, 1), 1u) << "the old stream's end is not the new one's";
  auto again = Open();
  ExpectError(*again, HelloOf("n1", 1), absl::StatusCode::kFailedPrecondition, "was replaced by 2");
}

TEST_F(HolderStreamTest, ReconnectKeepsTheOldStateAsStaleUntilTheSnapshot) {
  auto old = Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  auto fresh = Open();
  Send(*fresh, HelloOf("n1", 1));
  EXPECT_EQ(Matched(0, 1), 1u);
  EXPECT_FALSE(truth_.exact());
  ExpectError(*old, BeatOf(1), absl::StatusCode::kAborted, "another stream");
  Send(*fresh, SnapshotOf(1, space_, {Adds({KeyOf(0)})}));
  EXPECT_EQ(Matched(0, 1), 1u);
  EXPECT_TRUE(truth_.exact());
  EXPECT_EQ(CauseOf(77), v1::MISS_CAUSE_COLD) << "no change was missed in between";
}

TEST_F(HolderStreamTest, ChangesMissedBetweenStreamsMakeAbsenceUnknown) {
  Whole("n1", 1, 1, {Adds({KeyOf(0)})});
  EXPECT_EQ(CauseOf(77), v1::MISS_CAUSE_COLD);
  Whole("n1", 1, 3, {Adds({KeyOf(0)})});
  EXPECT_EQ(CauseOf(77), v1::MISS_CAUSE_UNKNOWN);
}

TEST_F(HolderStreamTest, NodeOlderThanTheDirectoryMakesAbsenceUnknown) {
  now_ += absl::Seconds(1);
  auto stream = Open();
  Send(*stream, HelloOf("n1", 1, 3'600'000));
  Send(*stream, SnapshotOf(0, space_));
  EXPECT_EQ(CauseOf(77), v1::MISS_CAUSE_UNKNOWN);
  EXPECT_FALSE(truth_.exact()) << "who else was there may still come back";
  now_ += kStaleMax;
  Send(*stream, BeatOf(0));
  Matched(0, 1);
  EXPECT_TRUE(truth_.exact());
}

TEST_F(HolderStreamTest, DirectoryThatHearsNoOneIsNotSure) {
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_UNKNOWN);
  EXPECT_FALSE(truth_.exact());
}

TEST_F(HolderStreamTest, RemoveReasonsBecomeCauses) {
  auto stream = Whole("n1", 1, 4, {Adds(KeysOf(0, 4))});
  Send(*stream, BatchOf(5, space_, {Removes({KeyOf(0)}, v1::REMOVE_REASON_EVICTED),
                                    Removes({KeyOf(1)}, v1::REMOVE_REASON_SPILL_REJECTED),
                                    Removes({KeyOf(2)}, v1::REMOVE_REASON_INTEGRITY),
                                    Removes({KeyOf(3)}, v1::REMOVE_REASON_WITHDRAWN)}));
  EXPECT_EQ(CauseOf(0), v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(CauseOf(1), v1::MISS_CAUSE_SPILL_REJECTED);
  EXPECT_EQ(CauseOf(2), v1::MISS_CAUSE_INTEGRITY);
  EXPECT_EQ(CauseOf(3), v1::MISS_CAUSE_EVICTED);
  EXPECT_EQ(CauseOf(4), v1::MISS_CAUSE_COLD);
}

TEST_F(HolderStreamTest, MessagesOutOfPlaceAreRefused) {
  auto stream = Open();
  ExpectError(*stream, BeatOf(0), absl::StatusCode::kInvalidArgument, "must be hello");
  ExpectError(*stream, {}, absl::StatusCode::kInvalidArgument, "must be hello");
  ExpectError(*stream, HelloOf("n1", 0), absl::StatusCode::kInvalidArgument, "incarnation");
  ExpectError(*stream, HelloOf(std::string(129, 'x'), 1), absl::StatusCode::kInvalidArgument, "node");
  Send(*stream, HelloOf("n1", 1));
  ExpectError(*stream, HelloOf("n1", 1), absl::StatusCode::kInvalidArgument, "hello came twice");
  ExpectError(*stream, {}, absl::StatusCode::kInvalidArgument, "not set");
}

TEST_F(HolderStreamTest, BadChangesAreRefusedAndNothingOfThemApplied) {
  auto stream = Whole("n1", 1);
  auto bad = BatchOf(1, space_, {Adds({KeyOf(0)}), Adds({KeyOf(1)})});
  bad.mutable_batch()->mutable_runs(1)->set_keys("short");
  ExpectError(*stream, bad, absl::StatusCode::kInvalidArgument, "keys");
  EXPECT_EQ(Matched(0, 1), 0u);
  bad = BatchOf(1, space_, {Adds({KeyOf(0)})});
  bad.mutable_batch()->mutable_runs(0)->set_namespace_(7);
  ExpectError(*stream, bad, absl::StatusCode::kInvalidArgument, "namespace 7 was not interned");
  ExpectError(*stream, BatchOf(1, SpaceOf(2), {}), absl::StatusCode::kInvalidArgument, "cannot become");
  ExpectError(*stream, BatchOf(0, space_, {Adds({KeyOf(0)})}), absl::StatusCode::kInvalidArgument, "numbered from 1");
  ExpectError(*stream, BatchOf(~uint64_t{0}, space_, {}), absl::StatusCode::kInvalidArgument, "sequence");
  ExpectError(*stream, SnapshotOf(1, space_, {Removes({KeyOf(0)})}), absl::StatusCode::kInvalidArgument, "adds only");
  EXPECT_EQ(Matched(0, 1), 0u);
}

}  // namespace
}  // namespace stem
