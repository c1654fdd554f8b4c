// Reservations, leases, the change log, work queues, peer reports and sessions: who holds what, for how long, and what a full one says.
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/node/announce/change_log.h"
#include "services/node/peers/lease_table.h"
#include "services/node/peers/peer_reports.h"
#include "services/node/sessions/reservations.h"
#include "services/node/sessions/session.h"
#include "services/runtime/work_queue.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 4096;
const absl::Time kNow = absl::UnixEpoch();

BlockName Name(uint64_t number) { return {{{.low = 1, .high = 1}}, {{.low = number, .high = 0}}}; }

TEST(ReservationsTest, SecondSessionIsToldThatTheKeyIsTaken) {
  Reservations reservations;
  EXPECT_TRUE(reservations.TryReserve(Name(1), 1, kNow, kNow + absl::Seconds(30)));
  EXPECT_FALSE(reservations.TryReserve(Name(1), 2, kNow, kNow + absl::Seconds(30)));
  EXPECT_TRUE(reservations.TryReserve(Name(1), 1, kNow, kNow + absl::Seconds(30))) << "its own";
  reservations.Free(std::vector<BlockName>{Name(1)}, 2);
  EXPECT_TRUE(reservations.Reserved(Name(1), kNow)) << "only its holder frees it";
  reservations.Free(std::vector<BlockName>{Name(1)}, 1);
  EXPECT_TRUE(reservations.TryReserve(Name(1), 2, kNow, kNow + absl::Seconds(30)));
}

TEST(ReservationsTest, OneThatIsPastItsTimeIsFree) {
  Reservations reservations;
  ASSERT_TRUE(reservations.TryReserve(Name(1), 1, kNow, kNow + absl::Seconds(30)));
  ASSERT_TRUE(reservations.TryReserve(Name(2), 1, kNow, kNow + absl::Seconds(90)));
  EXPECT_TRUE(reservations.TryReserve(Name(1), 2, kNow + absl::Seconds(31), kNow + absl::Seconds(60)));
  EXPECT_EQ(reservations.Expire(kNow + absl::Seconds(61)), 1u);
  EXPECT_EQ(reservations.size(), 1u);
}

class PoolTest : public ::testing::Test {
 protected:
  PoolTest()
      : memory_(4 * SlotGeometry::For(kBlockBytes).slot_bytes),
        pool_(std::span(memory_), SlotGeometry::For(kBlockBytes), {}) {}
  BlockPin Publish(uint64_t number) {
    return *std::move(*pool_.BeginFill(Name(number), std::nullopt, absl::Now())).Commit(kBlockBytes, 1, 1);
  }

  std::vector<std::byte> memory_;
  BlockPool pool_;
};

using LeaseTableTest = PoolTest;

TEST_F(LeaseTableTest, LeasePinsUntilReturnedOrItsTimeWithAMargin) {
  LeaseTable leases(2);
  std::vector<BlockPin> first;
  first.push_back(Publish(1));
  std::vector<BlockPin> second;
  second.push_back(Publish(2));
  const uint64_t one = leases.Grant(std::move(first), kNow, absl::Seconds(10));
  const uint64_t two = leases.Grant(std::move(second), kNow, absl::Seconds(10));
  ASSERT_NE(one, 0u);
  EXPECT_EQ(leases.NamesOf(one, {Name(1).key, Name(2).key}), std::vector<BlockName>{Name(1)});
  EXPECT_EQ(leases.Grant({}, kNow, absl::Seconds(10)), 0u) << "two is the limit";
  leases.Return(one);
  leases.Return(one);  // twice is fine
  EXPECT_EQ(pool_.stats().pins, 1u);
  EXPECT_EQ(leases.Expire(kNow + absl::Seconds(10)), 0u) << "the reader counts from sending, so the owner waits longer";
  EXPECT_EQ(leases.Expire(kNow + absl::Seconds(10) + kLeaseMargin), 1u);
  EXPECT_EQ(pool_.stats().pins, 0u);
  EXPECT_TRUE(leases.NamesOf(two, {Name(2).key}).empty());
}

TEST(ChangeLogTest, ReaderThatFallsBehindIsToldSo) {
  ChangeLog log(4);
  for (uint64_t i = 1; i <= 6; ++i) log.Append({.name = Name(i)});
  EXPECT_EQ(log.sequence(), 6u);
  EXPECT_TRUE(log.ReadAfter(1, 10, absl::ZeroDuration()).lost);
  const ChangeLog::Slice slice = log.ReadAfter(2, 3, absl::ZeroDuration());
  EXPECT_FALSE(slice.lost);
  ASSERT_EQ(slice.changes.size(), 3u);
  EXPECT_EQ(slice.changes[0].name, Name(3));
  EXPECT_TRUE(log.ReadAfter(6, 10, absl::ZeroDuration()).changes.empty());
}

TEST(ChangeLogTest, WaitingReaderWakesWithTheChange) {
  ChangeLog log(4);
  std::thread writer([&] { log.Append({.name = Name(1)}); });
  EXPECT_EQ(log.ReadAfter(0, 10, absl::Seconds(60)).changes.size(), 1u);
  writer.join();
}

TEST(WorkQueueTest, FullQueueRefusesAndEverythingAcceptedRuns) {
  std::atomic<int> ran{0};
  int accepted = 0;
  {
    Mutex gate;
    gate.Lock();
    WorkQueue queue(1, 2);
    std::atomic<bool> started{false};
    accepted += queue.TryPost([&] {
      started = true;
      MutexLock wait(gate);
      ++ran;
    });
    while (!started) std::this_thread::yield();
    for (int i = 0; i < 5; ++i) accepted += queue.TryPost([&] { ++ran; });
    EXPECT_EQ(queue.depth(), 2u);
    gate.Unlock();
  }
  EXPECT_EQ(accepted, 3);
  EXPECT_EQ(ran, 3);
}

TEST(PeerReportsTest, EveryStreamIsToldEachReadOnce) {
  PeerReports reports;
  const PeerReports::Teller first = reports.NewTeller();
  reports.Count("b", PeerReports::Result::kGood);
  reports.Count("b", PeerReports::Result::kLate);
  PeerReports::Teller second = reports.NewTeller();
  reports.Count("a", PeerReports::Result::kCorrupt);
  stemcache::v1::Heartbeat heartbeat;
  first(heartbeat);
  ASSERT_EQ(heartbeat.peers_size(), 2);
  EXPECT_EQ(heartbeat.peers(0).node(), "a");
  EXPECT_EQ(heartbeat.peers(0).failed_proofs(), 1u);
  EXPECT_EQ(heartbeat.peers(1).reads(), 2u);
  EXPECT_EQ(heartbeat.peers(1).deadline_misses(), 1u);
  heartbeat.Clear();
  first(heartbeat);
  EXPECT_EQ(heartbeat.peers_size(), 0) << "told already";
  second(heartbeat);
  ASSERT_EQ(heartbeat.peers_size(), 1) << "what happened since it was made";
  EXPECT_EQ(heartbeat.peers(0).reads(), 1u);
  second = nullptr;
  for (int i = 0; i < 2000; ++i) reports.Count(std::to_string(i), PeerReports::Result::kGood);
  heartbeat.Clear();
  first(heartbeat);
  EXPECT_EQ(heartbeat.peers_size(), 1024) << "bounded";
}

class SessionTest : public PoolTest {
 protected:
  SessionTest() : table_(reservations_, 1 << 20, [this](uint64_t id) { ended_.push_back(id); }) {}
  Space space_;
  Reservations reservations_;
  std::vector<uint64_t> ended_;
  SessionTable table_;
};

TEST_F(SessionTest, EverythingItHeldEndsWithIt) {
  const SessionTable::Created created = *table_.Create(space_, {.pid = 1, .uid = 2}, "engine", 8192);
  Session& session = *created.session;
  EXPECT_EQ(table_.staging_bytes(), 8192u);
  ASSERT_TRUE((*session.AddAcquire(1, 2))->Put(0, Publish(1)));
  ASSERT_TRUE(reservations_.TryReserve(Name(2), session.id(), absl::Now(), absl::Now() + absl::Seconds(30)));
  ASSERT_TRUE(session.AddReservation(2, {.names = {Name(2)}}).ok());
  EXPECT_EQ(pool_.stats().pins, 1u);

  const std::shared_ptr<Session> kept = created.session;
  table_.Close(created.token);
  EXPECT_EQ(pool_.stats().pins, 0u);
  EXPECT_EQ(reservations_.size(), 0u);
  EXPECT_EQ(table_.size(), 0u);
  EXPECT_EQ(table_.staging_bytes(), 0u);
  EXPECT_EQ(table_.Find(created.token), nullptr);
  EXPECT_EQ(ended_, std::vector<uint64_t>{kept->id()});
  EXPECT_EQ(kept->AddAcquire(3, 1).status().code(), absl::StatusCode::kCancelled);
}

TEST_F(SessionTest, BlockThatLandsAfterReleaseIsDropped) {
  AcquirePins pins(1);
  pins.Release();
  EXPECT_FALSE(pins.Put(0, Publish(1)));
  EXPECT_EQ(pool_.stats().pins, 0u);
}

TEST_F(SessionTest, RequestIdInUseAndTooManyCallsAreRefused) {
  const SessionTable::Created created = *table_.Create(space_, {}, "engine", 0);
  ASSERT_TRUE(created.session->AddAcquire(5, 1).ok());
  EXPECT_EQ(created.session->AddAcquire(5, 1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(created.session->AddReservation(5, {}).code(), absl::StatusCode::kInvalidArgument);
  for (uint64_t id = 6; id < 6 + kSessionCallsMax - 1; ++id) ASSERT_TRUE(created.session->AddAcquire(id, 1).ok());
  EXPECT_EQ(created.session->AddAcquire(999999, 1).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SessionTest, StagingBeyondTheLimitIsRefusedWithTheNumbers) {
  const absl::Status refused = table_.Create(space_, {}, "greedy", 2 << 20).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("2097152"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("1048576"));
}

}  // namespace
}  // namespace stem
