// Reserve, Commit and Abandon, and the staging between them.
#include "client/reservation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/support/client_fixture.h"

namespace stem::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Message = v1::ClientMessage;

class ReservationTest : public ClientFixture {
 protected:
  void Fill(const Reservation& reservation) {
    for (const WantedPayload& wanted : reservation.wanted()) {
      const std::vector<std::byte> payload = Payload(wanted.block, wanted.part);
      ASSERT_EQ(wanted.staging.size(), payload.size());
      std::memcpy(wanted.staging.data(), payload.data(), payload.size());
    }
  }
};

TEST_F(ReservationTest, PublishedBlocksAreHitsForTheNextAcquire) {
  Start(/*parts=*/2);
  auto reservation = client_->Reserve(std::span(keys_).first(2), {}, Soon());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  ASSERT_EQ(reservation->wanted().size(), 4u);
  EXPECT_EQ(reservation->wanted()[3].block, 1u);
  EXPECT_EQ(reservation->wanted()[3].part, 2u);
  for (const WantedPayload& wanted : reservation->wanted()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(wanted.staging.data()) % 64, 0u);
  }
  Fill(*reservation);
  const auto result = client_->Commit(*std::move(reservation), Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->committed, 4u);
  EXPECT_EQ(client_->stats().payloads_committed, 4u);
  auto stem = client_->Acquire(keys_, {.parts = {0}}, Soon());
  Pages pages(2);
  EXPECT_EQ(client_->Load(*stem, 0, pages.spans, Soon()).blocks_loaded, 2u);
  EXPECT_EQ(Bytes(pages.spans[1]), Payload(1));
}

TEST_F(ReservationTest, ParentAndHeldBlocksAreCounted) {
  Start();
  HoldBlocks(3);
  auto reservation = client_->Reserve(std::span(keys_).subspan(1), {.parent = keys_[0]}, Soon());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  EXPECT_EQ(reservation->held(), 2u);
  ASSERT_EQ(reservation->wanted().size(), 3u);
  EXPECT_EQ(reservation->wanted()[0].block, 2u);
  EXPECT_EQ(node_->Take(Message::kReserve).reserve().parent(), keys_[0].bytes());
}

TEST_F(ReservationTest, DestroyedReservationIsAbandonedAndItsStagingReused) {
  Start(1, /*staging_bytes=*/3 * 5056);  // rounded up to 16 KiB: exactly three blocks
  for (int round = 0; round < 10; ++round) {
    auto reservation = client_->Reserve(std::span(keys_).first(3), {}, Soon());
    ASSERT_TRUE(reservation.ok()) << reservation.status();
    EXPECT_EQ(reservation->wanted().size(), 3u);
    const uint64_t id = node_->Take(Message::kReserve).request_id();
    reservation = absl::CancelledError();
    EXPECT_EQ(node_->Take(Message::kAbandon).abandon().reserve_id(), id);
  }
}

TEST_F(ReservationTest, FullStagingCoversALeadingPrefixAndSaysWhatIsMissing) {
  Start(1, /*staging_bytes=*/16 << 10);
  auto first = client_->Reserve(std::span(keys_).first(2), {}, Soon());
  ASSERT_EQ(first->wanted().size(), 2u);
  auto second = client_->Reserve(std::span(keys_).subspan(2), {.parent = keys_[1]}, Soon());
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->wanted().size(), 1u);
  EXPECT_EQ(second->refused(), 3u);
  EXPECT_EQ(second->staging_bytes_missing(), 3 * kTestBlockBytes);
  EXPECT_THAT(second->reason(), HasSubstr("lacks 15000 bytes"));
  Fill(*second);
  EXPECT_EQ(client_->Commit(*std::move(second), Soon())->committed, 1u);
  EXPECT_THAT(node_->Take(Message::kCommit).commit().positions(), ElementsAre(0));
}

TEST_F(ReservationTest, StagingStaysOutOfUseUntilTheNodeHasAnswered) {
  Start(1, /*staging_bytes=*/8 << 10);
  auto reservation = client_->Reserve(std::span(keys_).first(1), {}, Soon());
  ASSERT_EQ(reservation->wanted().size(), 1u);
  node_->SetScript([](const Message& message, v1::NodeMessage&) { return message.has_commit(); });
  EXPECT_EQ(client_->Commit(*std::move(reservation), Within(30)).status().code(), absl::StatusCode::kDeadlineExceeded);
  const uint64_t commit_id = node_->Take(Message::kCommit).request_id();
  // The node may still be reading.
  EXPECT_EQ(client_->Reserve(std::span(keys_).first(1), {}, Soon())->wanted().size(), 0u);
  v1::NodeMessage late;
  late.set_request_id(commit_id);
  late.mutable_committed()->set_refused(1);
  node_->Send(late);
  size_t wanted = 0;
  const absl::Time give_up = Soon();
  while (wanted == 0 && absl::Now() < give_up)
    wanted = client_->Reserve(std::span(keys_).first(1), {}, Soon())->wanted().size();
  EXPECT_EQ(wanted, 1u);
}

TEST_F(ReservationTest, NothingWantedCommitsNothing) {
  Start();
  HoldBlocks(2);
  auto reservation = client_->Reserve(std::span(keys_).first(2), {}, Soon());
  EXPECT_EQ(reservation->held(), 2u);
  const auto result = client_->Commit(*std::move(reservation), Soon());
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->committed, 0u);
  EXPECT_EQ(client_->Commit(Reservation(), Soon()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ReservationTest, ReaderWithoutStagingCannotReserve) {
  Start(1, /*staging_bytes=*/0);
  EXPECT_EQ(client_->Reserve(keys_, {}, Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ReservationTest, NodeDeathBetweenReserveAndCommitIsUnavailable) {
  Start();
  auto reservation = client_->Reserve(keys_, {}, Soon());
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  Fill(*reservation);  // staging is still mapped
  EXPECT_EQ(client_->Commit(*std::move(reservation), Soon()).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ReservationTest, BadReservedMessagesAreRefusedAndAbandoned) {
  Start();
  std::vector<v1::NodeMessage> bad(4);
  bad[0].mutable_reserved()->add_wanted()->set_count(7);  // more than asked for
  bad[1].mutable_reserved()->add_wanted()->set_first(2);  // none counted
  bad[2].mutable_reserved()->set_held(7);
  bad[3].mutable_opened();  // something else
  for (size_t i = 0; i < bad.size(); ++i) {
    node_->SetScript([&](const Message& message, v1::NodeMessage& reply) {
      if (message.has_reserve()) reply = bad[i];
      return message.has_reserve();
    });
    const absl::Status status = client_->Reserve(keys_, {}, Soon()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << i << ": " << status;
    EXPECT_EQ(node_->Take(Message::kAbandon).abandon().reserve_id(), node_->Take(Message::kReserve).request_id());
  }
}

TEST_F(ReservationTest, BadCommittedCountsAreRefused) {
  Start();
  node_->SetScript([](const Message& message, v1::NodeMessage& reply) {
    if (message.has_commit()) reply.mutable_committed()->set_committed(7);
    return message.has_commit();
  });
  auto reservation = client_->Reserve(keys_, {}, Soon());
  EXPECT_EQ(client_->Commit(*std::move(reservation), Soon()).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace stem::testing
