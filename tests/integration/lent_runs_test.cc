// A client reads what another node of its host holds in that node's memory: proved by digest, under leases that are renewed, for no longer
// than the node lives; and a copy is made afterwards, so that the chain can go on here.
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/arena_maps.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ArenasMapped;
using ::stem::testing::ChainOf;
using ::stem::testing::FillWithPosition;
using ::stem::testing::Soon;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr uint64_t kBlockBytes = 65536;

struct Loaded {
  uint32_t blocks = 0;
  absl::Status status;
};

// Loads what the stem has, and checks every byte of it.
Loaded LoadAll(CacheClient& client, const Stem& stem) {
  std::vector<std::vector<std::byte>> memory(stem.matched_blocks(), std::vector<std::byte>(kBlockBytes));
  const LoadResult result = client.Load(stem, 0, std::vector<std::span<std::byte>>(memory.begin(), memory.end()), Soon());
  for (uint32_t block = 0; block < result.blocks_loaded; ++block) EXPECT_THAT(memory[block], Each(static_cast<std::byte>(block)));
  return {.blocks = result.blocks_loaded, .status = result.status};
}

// Two nodes; the reader's client of node 1 has mapped node 0's memory.
class LentRunsTest : public ::testing::Test {
 protected:
  explicit LentRunsTest(absl::Duration lease = absl::Seconds(10)) : cluster_({.nodes = 2, .lease = lease}) {
    writer_ = cluster_.Connect(0, TestSpec(kBlockBytes));
    reader_ = cluster_.Connect(1, TestSpec(kBlockBytes));
    const size_t before = ArenasMapped();
    const std::vector<BlockKey> first = Publish(4, 900000);
    EXPECT_EQ(reader_->Acquire(first, {}, Soon())->matched_blocks(), 4u);
    // Node 1 maps node 0, and then its client does. Only then, and once the node knows, blocks are lent.
    EXPECT_TRUE(Eventually([&] { return ArenasMapped() == before + 2; }));
    EXPECT_TRUE(Eventually([&] { return IsLent(*reader_->Acquire(Publish(1, next_token_ += 1000), {}, Soon())); }));
  }

  std::vector<BlockKey> Publish(uint32_t blocks, uint32_t first_token) {
    std::vector<BlockKey> keys = ChainOf(*writer_, blocks, first_token);
    EXPECT_EQ(testing::Publish(*writer_, keys, FillWithPosition), blocks);
    cluster_.Settle();
    return keys;
  }

  // A block in another node's memory is not for reading in place, as its lease can end.
  bool IsLent(const Stem& stem) {
    const absl::StatusOr<View> view = reader_->Read(stem, 0, Soon());
    if (view.ok()) return false;
    EXPECT_THAT(std::string(view.status().message()), HasSubstr("node-0"));
    return absl::IsFailedPrecondition(view.status());
  }

  InProcessCluster cluster_;
  std::unique_ptr<CacheClient> writer_, reader_;
  uint32_t next_token_ = 100000;
};

TEST_F(LentRunsTest, IsReadWhereItLiesAndCopiedOnceItIsQuiet) {
  const std::vector<BlockKey> keys = Publish(20, 1);
  {
    const Stem stem = *reader_->Acquire(keys, {}, Soon());
    EXPECT_EQ(stem.matched_blocks(), 20u);
    EXPECT_EQ(stem.landed_blocks(), 20u) << "nothing is to be waited for";
    EXPECT_EQ(stem.source(0), v1::SOURCE_REMOTE_DRAM);
    EXPECT_TRUE(IsLent(stem));
    EXPECT_EQ(LoadAll(*reader_, stem).blocks, 20u);
  }
  EXPECT_TRUE(Eventually([&] { return reader_->Acquire(keys, {}, Soon())->source(19) == v1::SOURCE_LOCAL_DRAM; }));
  EXPECT_EQ(LoadAll(*reader_, *reader_->Acquire(keys, {}, Soon())).blocks, 20u);
  EXPECT_TRUE(Eventually([&] { return cluster_.node(0).Status().leases() == 0; })) << "and the lease was given back";
}

TEST_F(LentRunsTest, AChainThatWasReadThereGoesOnHereAtOnce) {
  const std::vector<BlockKey> keys = ChainOf(*writer_, 6);
  ASSERT_EQ(testing::Publish(*writer_, {keys.begin(), keys.begin() + 4}, FillWithPosition), 4u);
  cluster_.Settle();
  const Stem stem = *reader_->Acquire(keys, {}, Soon());
  ASSERT_EQ(stem.matched_blocks(), 4u);
  ReserveOptions options;
  options.parent = keys[3];
  absl::StatusOr<Reservation> reservation = reader_->Reserve(std::span(keys).subspan(4), options, Soon());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_EQ(reservation->wanted().size(), 2u) << reservation->reason();
  for (const WantedPayload& wanted : reservation->wanted()) {
    std::fill(wanted.staging.begin(), wanted.staging.end(), static_cast<std::byte>(4 + wanted.position));
  }
  EXPECT_EQ(reader_->Commit(*std::move(reservation), Soon())->committed, 2u);
  EXPECT_EQ(LoadAll(*reader_, *reader_->Acquire(keys, {}, Soon())).blocks, 6u);
}

// Two clients go on from one chain at once, beside the copies that are made of it anyway: each of these must wait for what another of
// them is bringing.
TEST_F(LentRunsTest, TwoWhoGoOnWithOneChainAtOnceAreNotRefused) {
  const auto other = cluster_.Connect(1, TestSpec(kBlockBytes));
  const auto go_on = [](CacheClient& client, const BlockKey& parent, uint64_t which) {
    BlockKey next = parent;
    next.low += which;
    ReserveOptions options;
    options.parent = parent;
    absl::StatusOr<Reservation> reservation = client.Reserve({&next, 1}, options, Soon());
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    ASSERT_EQ(reservation->wanted().size(), 1u) << reservation->reason();
    FillWithPosition(reservation->wanted()[0]);
    const absl::StatusOr<CommitResult> result = client.Commit(*std::move(reservation), Soon());
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->committed, 1u) << result->reason;
  };
  for (uint32_t round = 0; round < 40 && !HasFailure(); ++round) {
    const std::vector<BlockKey> keys = Publish(24, 1 + 1000 * round);
    const Stem stem = *reader_->Acquire(keys, {}, Soon()), another = *other->Acquire(keys, {}, Soon());
    ASSERT_EQ(stem.matched_blocks(), 24u);
    absl::SleepFor(absl::Milliseconds(round % 25));  // the copies of a quiet node begin after 20
    std::thread beside([&] { go_on(*other, keys.back(), 1); });
    go_on(*reader_, keys.back(), 2);
    beside.join();
  }
}

TEST_F(LentRunsTest, WhoGoesOnWaitsForAParentThatAnotherIsBringing) {
  const std::vector<BlockKey> keys = ChainOf(*reader_, 2);
  BlockPool& pool = *cluster_.node(1).memories()[0]->pool;
  absl::StatusOr<Filling> parent = pool.BeginFill({reader_->fingerprint(), keys[0]}, std::nullopt, Soon());
  ASSERT_TRUE(parent.ok()) << parent.status();
  ReserveOptions options;
  options.parent = keys[0];
  absl::StatusOr<Reservation> reservation = reader_->Reserve(std::span(keys).subspan(1), options, Soon());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_EQ(reservation->wanted().size(), 1u) << reservation->reason();
  FillWithPosition(reservation->wanted()[0]);
  std::thread other([&] {
    absl::SleepFor(absl::Milliseconds(100));  // the commit waits, meanwhile
    EXPECT_TRUE((*std::move(parent)).Commit(kBlockBytes, 0, 1).ok());
  });
  const absl::StatusOr<CommitResult> result = reader_->Commit(*std::move(reservation), Soon());
  other.join();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->committed, 1u) << result->reason;
}

TEST_F(LentRunsTest, AWrongByteThereIsAMissAndItsOwnerWithdrawsTheBlock) {
  const std::vector<BlockKey> keys = Publish(5, 1);
  GroupMemory& memory = *cluster_.node(0).memories()[0];
  {
    const BlockPin pin = memory.pool->Pin({writer_->fingerprint(), keys[2]});
    ASSERT_TRUE(pin.valid());
    const SlotGeometry& geometry = memory.pool->geometry();
    memory.arena.bytes()[pin.slot() * geometry.slot_bytes + geometry.payload_offset + 77] ^= std::byte{1};
  }
  {
    const Stem stem = *reader_->Acquire(keys, {}, Soon());
    ASSERT_EQ(stem.matched_blocks(), 5u);
    const Loaded loaded = LoadAll(*reader_, stem);
    EXPECT_EQ(loaded.blocks, 2u);
    EXPECT_TRUE(absl::IsDataLoss(loaded.status)) << loaded.status;
    EXPECT_EQ(reader_->stats().proofs_failed, 1u);
  }
  EXPECT_TRUE(Eventually([&] { return reader_->Acquire(keys, {}, Soon())->matched_blocks() == 2; }));
  EXPECT_EQ(cluster_.node(0).Status().integrity_failures(), 1u);
}

TEST_F(LentRunsTest, TheOwnersDeathTakesNothingFromWhoReadsAndThenItsMemoryGoes) {
  const std::vector<BlockKey> keys = Publish(8, 1);
  const size_t before = ArenasMapped();
  {
    const Stem stem = *reader_->Acquire(keys, {}, Soon());
    ASSERT_EQ(stem.matched_blocks(), 8u);
    writer_.reset();
    cluster_.StopNode(0);
    EXPECT_EQ(LoadAll(*reader_, stem).blocks, 8u);
  }
  // Of the four mappings of it (its own, its client's, node 1's, the reader's) none is left.
  EXPECT_TRUE(Eventually([&] { return ArenasMapped() == before - 4; })) << ArenasMapped() << " of " << before;
}

class ShortLeaseTest : public LentRunsTest {
 protected:
  ShortLeaseTest() : LentRunsTest(absl::Milliseconds(200)) {}
};

TEST_F(ShortLeaseTest, IsRenewedForAsLongAsItIsRead) {
  const std::vector<BlockKey> keys = Publish(8, 1);
  const Stem stem = *reader_->Acquire(keys, {}, Soon());
  ASSERT_TRUE(IsLent(stem));
  // Its owner is pressed for room, all the while and for several leases.
  const absl::Time end = absl::Now() + absl::Seconds(2);
  while (absl::Now() < end) {
    const std::vector<BlockKey> other = ChainOf(*writer_, 30, next_token_ += 1000);
    ASSERT_GT(testing::Publish(*writer_, other, FillWithPosition), 0u);
  }
  EXPECT_EQ(LoadAll(*reader_, stem).blocks, 8u);
}

}  // namespace
}  // namespace stem
