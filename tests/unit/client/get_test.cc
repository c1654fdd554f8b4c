// Get, waited for and by callback: what the node's slot map shows is copied without a call and told of afterwards, all else is asked for.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "client/outcome.h"
#include "client/session.h"
#include "tests/support/client_fixture.h"

namespace stem::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Message = v1::ClientMessage;

class GetTest : public ClientFixture, public ::testing::WithParamInterface<bool> {
 protected:
  void StartShowing(uint32_t parts = 1) { Start(parts, 64 << 10, LocalProof::kFull, /*show_slots=*/true); }

  GetResult Get(std::span<const BlockKey> keys, std::span<const std::span<std::byte>> destinations, const AcquireOptions& options = {},
                absl::Time deadline = Soon()) {
    if (!GetParam()) return client_->Get(keys, options, destinations, deadline);
    Outcome<GetResult> outcome;
    client_->GetAsync(keys, options, destinations, deadline, [&](GetResult result) { outcome.Set(std::move(result)); });
    return outcome.Take();
  }
  void ExpectBlocks(const Pages& pages, size_t first, size_t end) {
    for (size_t block = first; block < end; ++block) EXPECT_EQ(Bytes(pages.spans[block]), Payload(block)) << block;
  }
  // Nobody is to ask.
  void RefuseAcquires() {
    node_->SetScript([](const Message& message, v1::NodeMessage& reply) {
      if (!message.has_acquire()) return false;
      reply.set_code(static_cast<uint32_t>(absl::StatusCode::kInternal));
      reply.set_error("it was asked");
      return true;
    });
  }
};

TEST_P(GetTest, WhatIsShownIsCopiedWithoutACall) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  RefuseAcquires();
  Pages pages(kTestBlocks);
  const GetResult got =
      Get(keys_, pages.spans, {.request = "r-17", .traceparent = "00-a-b-01", .block_compute = absl::Milliseconds(2), .conversation = {.id = 9}});
  EXPECT_EQ(got.blocks_loaded, kTestBlocks) << got.status;
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_TRUE(got.misses.empty());
  ExpectBlocks(pages, 0, kTestBlocks);
  const Message told = node_->Take(Message::kGot);
  ASSERT_EQ(told.got().chains_size(), 1);
  const v1::Got::Chain& chain = told.got().chains(0);
  EXPECT_EQ(chain.asked().keys().size(), kTestBlocks * sizeof(BlockKey));
  EXPECT_EQ(chain.asked().request(), "r-17");
  EXPECT_EQ(chain.asked().block_compute_us(), 2000u);
  EXPECT_EQ(chain.asked().conversation().id(), 9u);
  EXPECT_EQ(chain.traceparent(), "00-a-b-01");
  EXPECT_EQ(chain.payloads_loaded(), kTestBlocks);
  EXPECT_EQ(chain.bytes_loaded(), kTestBlocks * kTestBlockBytes);
  EXPECT_LE(chain.took_us(), chain.began_us_ago());
  EXPECT_GT(chain.deadline_us(), 1'000'000u);
  EXPECT_TRUE(ValidateGot(told.got(), spec_).ok());
  EXPECT_EQ(client_->stats().payloads_loaded[v1::SOURCE_LOCAL_DRAM], kTestBlocks);
  EXPECT_EQ(client_->stats().bytes_loaded[v1::SOURCE_LOCAL_DRAM], kTestBlocks * kTestBlockBytes);
}

TEST_P(GetTest, ManyAreToldTogetherAndEachOnce) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  RefuseAcquires();
  Pages pages(kTestBlocks);
  constexpr int kGets = 500;
  const absl::Time begin = absl::Now();
  for (int i = 0; i < kGets; ++i) ASSERT_TRUE(Get(keys_, pages.spans).status.ok());
  int told = 0, messages = 0;
  for (; told < kGets; ++messages) told += node_->Take(Message::kGot).got().chains_size();
  EXPECT_EQ(told, kGets);
  EXPECT_LE(messages, 2 + kGets / 64 + (absl::Now() - begin) / Session::kGotWait) << "when there are 64, or their time has come";
}

TEST_P(GetTest, TheLastIsToldBeforeTheClientEnds) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  RefuseAcquires();
  Pages pages(kTestBlocks);
  ASSERT_TRUE(Get(keys_, pages.spans).status.ok());
  client_.reset();
  EXPECT_EQ(node_->Take(Message::kGot).got().chains_size(), 1);
}

TEST_P(GetTest, ANodeThatDoesNotReadIsNotWaitedForAtTheEnd) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  Pages pages(kTestBlocks);
  node_->StopReading();
  ASSERT_TRUE(Get(keys_, pages.spans).status.ok());
  const absl::Time begin = absl::Now();
  client_.reset();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
}

TEST_P(GetTest, WithoutASlotMapItIsAskedFor) {
  Start();
  HoldBlocks(4);
  Pages pages(kTestBlocks);
  const GetResult got = Get(keys_, pages.spans, {.request = "r-17"});
  EXPECT_EQ(got.blocks_loaded, 4u);
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_THAT(got.misses, ElementsAre(MissRun{.first = 4, .count = 2, .cause = v1::MISS_CAUSE_COLD}));
  ExpectBlocks(pages, 0, 4);
  EXPECT_EQ(node_->Take(Message::kAcquire).acquire().request(), "r-17");
  EXPECT_EQ(node_->Take(Message::kRelease).release().payloads_loaded(), 4u);
}

TEST_P(GetTest, ABlockThatIsNotShownIsAskedForWithTheRest) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  node_->Unshow(3);
  Pages pages(kTestBlocks);
  EXPECT_EQ(Get(keys_, pages.spans).blocks_loaded, kTestBlocks);
  ExpectBlocks(pages, 0, kTestBlocks);
  EXPECT_EQ(node_->Take(Message::kRelease).release().payloads_loaded(), kTestBlocks);
}

TEST_P(GetTest, AWrongByteIsAskedForOnceMoreAndReported) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  node_->slot(2).payload(kTestBlockBytes)[77] ^= std::byte{1};
  Pages pages(kTestBlocks);
  const GetResult got = Get(keys_, pages.spans);
  EXPECT_EQ(got.blocks_loaded, 2u);
  EXPECT_TRUE(absl::IsDataLoss(got.status)) << got.status;
  ExpectBlocks(pages, 0, 2);
  EXPECT_THAT(node_->Take(Message::kRelease).release().corrupt(), ElementsAre(2u));
  EXPECT_EQ(client_->stats().proofs_failed, 1u);
}

TEST_P(GetTest, WhatWasCopiedBeforeStaysThoughTheNodeHasLostItSince) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  node_->slot(4).payload(kTestBlockBytes)[0] ^= std::byte{1};
  node_->SetScript([&](const Message& message, v1::NodeMessage& reply) {
    if (!message.has_acquire()) return false;
    v1::Miss* const miss = reply.mutable_acquired()->add_misses();
    miss->set_count(kTestBlocks);
    miss->set_cause(v1::MISS_CAUSE_EVICTED);
    return true;
  });
  Pages pages(kTestBlocks);
  const GetResult got = Get(keys_, pages.spans);
  EXPECT_EQ(got.blocks_loaded, 4u);
  EXPECT_TRUE(got.status.ok()) << got.status;
  EXPECT_THAT(got.misses, ElementsAre(MissRun{.first = 4, .count = 2, .cause = v1::MISS_CAUSE_EVICTED}));
  ExpectBlocks(pages, 0, 4);
}

TEST_P(GetTest, EmptyDestinationsAreSkippedAndNeedNotBeThere) {
  StartShowing();
  for (const size_t block : {4, 5}) node_->Hold(keys_[block], Payload(block));
  RefuseAcquires();
  Pages pages(kTestBlocks);
  std::vector<std::span<std::byte>> wanted = pages.spans;
  std::fill_n(wanted.begin(), 4, std::span<std::byte>());
  const GetResult got = Get(keys_, wanted);
  EXPECT_EQ(got.blocks_loaded, kTestBlocks) << got.status;
  ExpectBlocks(pages, 4, kTestBlocks);
  EXPECT_EQ(node_->Take(Message::kGot).got().chains(0).payloads_loaded(), 2u);
}

TEST_P(GetTest, AChainOfWhichNothingIsWantedIsStillLookedFor) {
  StartShowing();
  HoldBlocks(4);
  const GetResult got = Get(keys_, std::vector<std::span<std::byte>>(kTestBlocks));
  EXPECT_EQ(got.blocks_loaded, 4u) << "its end is not held";
  EXPECT_THAT(got.misses, ElementsAre(MissRun{.first = 4, .count = 2, .cause = v1::MISS_CAUSE_COLD}));
  EXPECT_EQ(Get(std::span(keys_).first(4), std::vector<std::span<std::byte>>(4)).blocks_loaded, 4u);
  EXPECT_EQ(node_->Take(Message::kGot).got().chains(0).payloads_loaded(), 0u);
}

TEST_P(GetTest, EveryPartIsCopied) {
  StartShowing(/*parts=*/2);
  HoldBlocks(2);
  RefuseAcquires();
  Pages first(2), second(2, kTestBlockBytes + 64);
  const std::vector<std::span<std::byte>> wanted = {first.spans[0], second.spans[0], first.spans[1], second.spans[1]};
  const GetResult got = Get(std::span(keys_).first(2), wanted);
  EXPECT_EQ(got.blocks_loaded, 2u) << got.status;
  EXPECT_EQ(Bytes(first.spans[1]), Payload(1, 0));
  EXPECT_EQ(Bytes(second.spans[1]), Payload(1, 2));
}

TEST_P(GetTest, BadInputIsRefusedWithItsValue) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  Pages pages(kTestBlocks);
  EXPECT_THAT(Get(keys_, std::span(pages.spans).first(5)).status.message(), HasSubstr("the number of destinations is 5; it must be one per position, 6"));
  EXPECT_THAT(Get({}, {}).status.message(), HasSubstr("keys times parts is 0"));
  std::vector<std::span<std::byte>> wanted = pages.spans;
  wanted[1] = wanted[1].first(7);
  const GetResult got = Get(keys_, wanted);
  EXPECT_TRUE(absl::IsInvalidArgument(got.status)) << got.status;
  EXPECT_THAT(got.status.message(), HasSubstr("destination 1 has 7 bytes"));
}

TEST_P(GetTest, ANodeThatIsGoneServesNothingMore) {
  StartShowing();
  HoldBlocks(kTestBlocks);
  node_.reset();
  while (client_->connected()) absl::SleepFor(absl::Milliseconds(1));
  Pages pages(kTestBlocks);
  EXPECT_TRUE(absl::IsUnavailable(Get(keys_, pages.spans).status));
}

TEST_P(GetTest, ASilentNodeIsNotWaitedForBeyondTheDeadline) {
  StartShowing();
  HoldBlocks(2);
  node_->SetScript([](const Message& message, v1::NodeMessage&) { return message.has_acquire(); });
  Pages pages(kTestBlocks);
  const absl::Time begin = absl::Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Get(keys_, pages.spans, {}, Within(50)).status));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  node_->Take(Message::kRelease);
}

INSTANTIATE_TEST_SUITE_P(WaitedForAndByCallback, GetTest, ::testing::Bool());

}  // namespace
}  // namespace stem::testing
