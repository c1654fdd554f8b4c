// The knobs of the double; that it keeps the contract is tests/contract/transport_contract_test.cc.
#include "tests/support/loopback_transport.h"

#include <gtest/gtest.h>

#include <vector>

#include "absl/time/clock.h"
#include "tests/support/read_outcome.h"

namespace stem {
namespace {

class LoopbackKnobs : public testing::Test {
 protected:
  LoopbackKnobs() : source_(4096, std::byte{7}), destination_(4096), offered_(*owner_.Register(source_, MemoryPlace::kHost)),
                    local_(*reader_.Register(destination_, MemoryPlace::kHost)) {
    peer_ = *reader_.Connect({.worker_address = owner_.worker_address(),
                              .regions = {{.arena = 0, .base = 4096, .bytes = 4096, .rkey = offered_->rkey()}},
                              .incarnation = 1}, absl::InfiniteFuture());
  }
  void TearDown() override { reader_.Close(); }
  std::vector<ReadOp> Ops(size_t count) {
    std::vector<ReadOp> ops;
    for (size_t i = 0; i < count; ++i) {
      ops.push_back({.arena = 0, .offset = i * 64, .destination = std::span(destination_).subspan(i * 64, 64),
                     .registration = local_.get()});
    }
    return ops;
  }

  LoopbackFabric fabric_;
  LoopbackTransport owner_{fabric_};
  LoopbackTransport reader_{fabric_};
  std::vector<std::byte> source_;
  std::vector<std::byte> destination_;
  std::unique_ptr<Registration> offered_;
  std::unique_ptr<Registration> local_;
  std::shared_ptr<RemotePeer> peer_;
};

TEST_F(LoopbackKnobs, AHeldReadEndsAtItsDeadlineWithoutAByte) {
  fabric_.Hold();
  ReadOutcome outcome(2);
  ASSERT_TRUE(reader_.Read(peer_, Ops(2), absl::Now() + absl::Milliseconds(5), outcome.callbacks()).ok());
  EXPECT_TRUE(absl::IsDeadlineExceeded(outcome.WaitSafe()));
  EXPECT_EQ(destination_[0], std::byte{0});
}

TEST_F(LoopbackKnobs, AHeldReadGoesOnWhenReleased) {
  fabric_.Hold();
  ReadOutcome outcome(2);
  ASSERT_TRUE(reader_.Read(peer_, Ops(2), absl::InfiniteFuture(), outcome.callbacks()).ok());
  EXPECT_EQ(outcome.answered(), 0u);
  fabric_.Release();
  EXPECT_TRUE(outcome.WaitSafe().ok());
}

TEST_F(LoopbackKnobs, ADelayedReadLands) {
  fabric_.SetDelay(absl::Milliseconds(1));
  ReadOutcome outcome(2);
  ASSERT_TRUE(reader_.Read(peer_, Ops(2), absl::InfiniteFuture(), outcome.callbacks()).ok());
  EXPECT_TRUE(outcome.WaitSafe().ok());
}

TEST_F(LoopbackKnobs, FaultsHitTheNextOpsInOrder) {
  fabric_.FailNextOps(1, absl::InternalError("fault"));
  fabric_.CorruptNextOps(1);
  ReadOutcome outcome(3);
  ASSERT_TRUE(reader_.Read(peer_, Ops(3), absl::InfiniteFuture(), outcome.callbacks()).ok());
  const auto answers = outcome.WaitAnswers();
  EXPECT_TRUE(absl::IsInternal(answers[0]));
  EXPECT_TRUE(answers[1].ok());
  EXPECT_TRUE(answers[2].ok());
  EXPECT_EQ(destination_[0], std::byte{0});
  EXPECT_EQ(destination_[64], std::byte{6});
  EXPECT_EQ(destination_[65], std::byte{7});
  EXPECT_EQ(destination_[128], std::byte{7});
  EXPECT_TRUE(absl::IsInternal(outcome.WaitSafe()));
}

TEST_F(LoopbackKnobs, AKilledOwnerEndsHeldReadsAndIsLost) {
  fabric_.Hold();
  ReadOutcome outcome(1);
  ASSERT_TRUE(reader_.Read(peer_, Ops(1), absl::InfiniteFuture(), outcome.callbacks()).ok());
  fabric_.Kill(owner_.worker_address());
  EXPECT_TRUE(absl::IsUnavailable(outcome.WaitSafe()));
  EXPECT_TRUE(peer_->lost());
  ReadOutcome late(1);
  EXPECT_TRUE(absl::IsUnavailable(reader_.Read(peer_, Ops(1), absl::InfiniteFuture(), late.callbacks())));
}

}  // namespace
}  // namespace stem
