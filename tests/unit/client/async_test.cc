// The callback forms: each runs once, at the deadline at the latest, and before the client is gone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "client/outcome.h"
#include "tests/support/client_fixture.h"

namespace stem::testing {
namespace {

using Message = v1::ClientMessage;

class AsyncTest : public ClientFixture {
 protected:
  absl::StatusOr<Stem> AcquireByCallback(std::span<const BlockKey> keys, absl::Time deadline) {
    Outcome<absl::StatusOr<Stem>> outcome;
    client_->AcquireAsync(keys, {}, deadline, [&](absl::StatusOr<Stem> stem) { outcome.Set(std::move(stem)); });
    return outcome.Take();
  }
};

TEST_F(AsyncTest, PublishAndFetchByCallback) {
  Start();
  Outcome<absl::StatusOr<Reservation>> reserved;
  client_->ReserveAsync(keys_, {}, Soon(),
                        [&](absl::StatusOr<Reservation> result) { reserved.Set(std::move(result)); });
  auto reservation = reserved.Take();
  ASSERT_TRUE(reservation.ok()) << reservation.status();
  for (const WantedPayload& wanted : reservation->wanted()) {
    std::memcpy(wanted.staging.data(), Payload(wanted.block).data(), kTestBlockBytes);
  }
  Outcome<absl::StatusOr<CommitResult>> committed;
  client_->CommitAsync(*std::move(reservation), Soon(),
                       [&](absl::StatusOr<CommitResult> result) { committed.Set(std::move(result)); });
  EXPECT_EQ(committed.Take()->committed, kTestBlocks);
  auto stem = AcquireByCallback(keys_, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  Pages pages(kTestBlocks);
  Outcome<LoadResult> loaded;
  client_->LoadAsync(*stem, 0, pages.spans, Soon(), [&](LoadResult result) { loaded.Set(std::move(result)); });
  stem = absl::CancelledError();  // the load keeps it
  EXPECT_EQ(loaded.Take().blocks_loaded, kTestBlocks);
  EXPECT_EQ(Bytes(pages.spans[5]), Payload(5));
  node_->Take(Message::kRelease);
}

TEST_F(AsyncTest, SilentNodeEndsTheCallbackAtItsDeadline) {
  Start();
  node_->SetScript(
      [](const Message& message, v1::NodeMessage&) { return message.has_acquire() || message.has_reserve(); });
  EXPECT_EQ(AcquireByCallback(keys_, Within(30)).status().code(), absl::StatusCode::kDeadlineExceeded);
  node_->Take(Message::kRelease);
  Outcome<absl::StatusOr<Reservation>> reserved;
  client_->ReserveAsync(keys_, {}, Within(30), [&](absl::StatusOr<Reservation> r) { reserved.Set(std::move(r)); });
  EXPECT_EQ(reserved.Take().status().code(), absl::StatusCode::kDeadlineExceeded);
  node_->Take(Message::kAbandon);
}

TEST_F(AsyncTest, WaitingLoadsHoldNoThreadAndEndAtTheirDeadlines) {
  Start();
  HoldBlocks(2);
  node_->LandFrom(1);
  auto stem = client_->Acquire(std::span(keys_).first(2), {}, Soon());
  std::vector<std::unique_ptr<Pages>> pages;
  std::vector<std::unique_ptr<Outcome<LoadResult>>> results;
  for (int i = 0; i < 20; ++i) {  // many more than the executor's threads
    pages.push_back(std::make_unique<Pages>(2));
    results.push_back(std::make_unique<Outcome<LoadResult>>());
    client_->LoadAsync(*stem, 0, pages.back()->spans, i % 2 == 0 ? Within(30) : Soon(),
                       [&, i](LoadResult result) { results[static_cast<size_t>(i)]->Set(std::move(result)); });
  }
  for (size_t i = 0; i < 20; i += 2) {
    const LoadResult result = results[i]->Take();
    EXPECT_EQ(result.status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_EQ(result.blocks_loaded, 1u);
  }
  v1::NodeMessage landed;
  landed.set_request_id(node_->Take(Message::kAcquire).request_id());
  *landed.mutable_landed()->add_ready() = node_->Run(1, 1, 1, v1::SOURCE_LOCAL_SSD);
  node_->Send(landed);
  for (size_t i = 1; i < 20; i += 2) EXPECT_EQ(results[i]->Take().blocks_loaded, 2u);
  client_->Release(*std::move(stem));
  node_->Take(Message::kRelease);  // no load keeps it
}

TEST_F(AsyncTest, DestructionEndsEveryCallbackWithUnavailable) {
  Start();
  HoldBlocks(2);
  node_->LandFrom(1);
  auto stem = client_->Acquire(std::span(keys_).first(2), {}, Soon());
  node_->SetScript([](const Message&, v1::NodeMessage&) { return true; });
  std::atomic<int> unavailable = 0;
  Pages pages(2);
  for (int i = 0; i < 10; ++i) {
    client_->AcquireAsync(keys_, {}, Soon(),
                          [&](absl::StatusOr<Stem> r) { unavailable += absl::IsUnavailable(r.status()); });
  }
  client_->LoadAsync(*stem, 0, pages.spans, Soon(),
                     [&](LoadResult r) { unavailable += absl::IsUnavailable(r.status); });
  client_.reset();
  EXPECT_EQ(unavailable, 11);
}

TEST_F(AsyncTest, CallbacksReattachToo) {
  Start();
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  StartNode({.spec = spec_, .incarnation = 2});
  const auto stem = AcquireByCallback(keys_, Soon());
  EXPECT_TRUE(stem.ok()) << stem.status();
  EXPECT_EQ(client_->incarnation(), 2u);
}

TEST_F(AsyncTest, BadRequestsAreRefusedInTheCall) {
  Start();
  EXPECT_EQ(AcquireByCallback({}, Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  int calls = 0;
  client_->LoadAsync(Stem(), 0, {}, Soon(), [&](LoadResult) { ++calls; });
  client_->CommitAsync(Reservation(), Soon(), [&](absl::StatusOr<CommitResult>) { ++calls; });
  EXPECT_EQ(calls, 2);
}

TEST_F(AsyncTest, ManyThreadsPublishAndFetchAtOnce) {
  Start(1, /*staging_bytes=*/1 << 20);
  HoldBlocks(kTestBlocks);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int worker = 0; worker < 4; ++worker) {
    threads.emplace_back([&, worker] {
      for (int round = 0; round < 25; ++round) {
        auto stem = client_->Acquire(keys_, {}, Soon());
        Pages pages(kTestBlocks);
        Outcome<LoadResult> loaded;
        if (worker % 2 == 0) {
          loaded.Set(client_->Load(*stem, 0, pages.spans, Soon()));
        } else {
          client_->LoadAsync(*stem, 0, pages.spans, Soon(), [&](LoadResult r) { loaded.Set(std::move(r)); });
        }
        wrong += loaded.Take().blocks_loaded != kTestBlocks;
        for (size_t block = 0; block < kTestBlocks; ++block) wrong += Bytes(pages.spans[block]) != Payload(block);
        wrong += !client_->Reserve(keys_, {}, Soon()).ok();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace stem::testing
