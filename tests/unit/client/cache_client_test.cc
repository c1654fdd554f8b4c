// Acquire, Load, Read and Release against a node that does what the test says.
#include "client/cache_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <thread>

#include "kernels/checksum.h"
#include "tests/support/client_fixture.h"

namespace stem::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Message = v1::ClientMessage;

class CacheClientTest : public ClientFixture {};

TEST_F(CacheClientTest, HeldBlocksAreLoadedAndTheRestIsMissed) {
  Start();
  HoldBlocks(4);
  auto stem = client_->Acquire(keys_, {.request = "r-17", .traceparent = "00-a-b-01"}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  EXPECT_EQ(stem->matched_blocks(), 4u);
  EXPECT_EQ(stem->landed_blocks(), 4u);
  EXPECT_EQ(stem->source(3), v1::SOURCE_LOCAL_DRAM);
  EXPECT_EQ(stem->source(5), v1::SOURCE_UNSPECIFIED);
  EXPECT_THAT(stem->misses(), ElementsAre(MissRun{.first = 4, .count = 2, .cause = v1::MISS_CAUSE_COLD}));
  EXPECT_TRUE(stem->truth().exact());
  Pages pages(4);
  const LoadResult result = client_->Load(*stem, 0, pages.spans, Soon());
  EXPECT_EQ(result.blocks_loaded, 4u) << result.status;
  for (size_t block = 0; block < 4; ++block) EXPECT_EQ(Bytes(pages.spans[block]), Payload(block));
  const Message sent = node_->Take(Message::kAcquire);
  EXPECT_EQ(sent.acquire().request(), "r-17");
  EXPECT_EQ(sent.traceparent(), "00-a-b-01");
  EXPECT_GT(sent.deadline_us(), 1'000'000u);
  client_->Release(*std::move(stem));
  const Message release = node_->Take(Message::kRelease);
  EXPECT_EQ(release.release().acquire_id(), sent.request_id());
  EXPECT_EQ(release.release().corrupt_size(), 0);
  EXPECT_EQ(client_->stats().payloads_loaded[v1::SOURCE_LOCAL_DRAM], 4u);
  EXPECT_EQ(client_->stats().bytes_loaded[v1::SOURCE_LOCAL_DRAM], 4 * kTestBlockBytes);
}

TEST_F(CacheClientTest, NothingHeldIsAMissNotAnError) {
  Start();
  auto stem = client_->Acquire(keys_, {}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  EXPECT_EQ(stem->matched_blocks(), 0u);
  Pages pages(1);
  EXPECT_EQ(client_->Load(*stem, 0, pages.spans, Soon()).status.code(), absl::StatusCode::kOutOfRange);
}

TEST_F(CacheClientTest, DestroyedStemIsReleased) {
  Start();
  HoldBlocks(1);
  { const auto stem = client_->Acquire(keys_, {}, Soon()); }
  EXPECT_EQ(node_->Take(Message::kRelease).release().acquire_id(), node_->Take(Message::kAcquire).request_id());
}

TEST_F(CacheClientTest, PartsAreLoadedApartAndSkippedWhenEmpty) {
  Start(/*parts=*/3);
  HoldBlocks(2);
  auto stem = client_->Acquire(keys_, {.parts = {0, 4}}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  EXPECT_EQ(stem->parts_asked(), 2u);
  std::vector<std::byte> first(spec_.part(0)->block_bytes), second(spec_.part(4)->block_bytes);
  std::vector<std::span<std::byte>> pages = {first, {}, {}, second};
  const LoadResult result = client_->Load(*stem, 0, pages, Soon());
  EXPECT_EQ(result.blocks_loaded, 2u) << result.status;
  EXPECT_EQ(first, Payload(0, 0));
  EXPECT_EQ(second, Payload(1, 4));
  pages.pop_back();
  EXPECT_EQ(client_->Load(*stem, 0, pages, Soon()).status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(CacheClientTest, DestinationOfAnotherSizeIsRefused) {
  Start();
  HoldBlocks(1);
  auto stem = client_->Acquire(keys_, {}, Soon());
  Pages pages(1, kTestBlockBytes + 1);
  const LoadResult result = client_->Load(*stem, 0, pages.spans, Soon());
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(result.status.message(), HasSubstr("5001"));
}

TEST_F(CacheClientTest, BadRequestsAreRefusedWithTheValue) {
  Start();
  EXPECT_EQ(client_->Acquire({}, {}, Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(client_->Acquire(keys_, {.parts = {9}}, Soon()).status().message(), HasSubstr("9"));
  EXPECT_THAT(client_->Acquire(keys_, {.request = std::string(129, 'x')}, Soon()).status().message(), HasSubstr("129"));
  EXPECT_EQ(client_->Load(Stem(), 0, {}, Soon()).status.code(), absl::StatusCode::kInvalidArgument);
}

// ---- Ranges ---------------------------------------------------------------------------------------------

TEST_F(CacheClientTest, RangesOfAPayloadAreLoadedAlone) {
  Start();
  HoldBlocks(1);
  auto stem = client_->Acquire(keys_, {}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  const std::vector<std::byte> payload = Payload(0);
  // Inside a chunk, over the edge of two, the last byte, nothing.
  std::vector<std::byte> inside(10), across(50), last(1);
  const std::vector<PayloadRange> ranges = {
      {.offset = 100, .destination = inside}, {.offset = 4096 - 25, .destination = across}, {.offset = kTestBlockBytes - 1, .destination = last},
      {.offset = kTestBlockBytes, .destination = {}}};
  ASSERT_TRUE(client_->LoadRanges(*stem, 0, ranges, Soon()).ok());
  EXPECT_TRUE(std::ranges::equal(inside, std::span(payload).subspan(100, 10)));
  EXPECT_TRUE(std::ranges::equal(across, std::span(payload).subspan(4096 - 25, 50)));
  EXPECT_EQ(last.front(), payload.back());
  EXPECT_EQ(client_->stats().bytes_loaded[v1::SOURCE_LOCAL_DRAM], 61u);
}

TEST_F(CacheClientTest, AWrongByteFailsTheRangesOfItsChunkAlone) {
  Start();
  HoldBlocks(1);
  node_->slot(0).payload(kTestBlockBytes)[4500] ^= std::byte{1};
  auto stem = client_->Acquire(keys_, {}, Soon());
  std::vector<std::byte> memory(10);
  const std::vector<PayloadRange> first_chunk = {{.offset = 0, .destination = memory}};
  EXPECT_TRUE(client_->LoadRanges(*stem, 0, first_chunk, Soon()).ok());
  const std::vector<PayloadRange> second_chunk = {{.offset = 4096, .destination = memory}};
  EXPECT_EQ(client_->LoadRanges(*stem, 0, second_chunk, Soon()).code(), absl::StatusCode::kDataLoss);
  node_->slot(0).chunk_hashes(2)[1] ^= 1;  // a hash that fits nothing is found by the digest
  EXPECT_EQ(client_->LoadRanges(*stem, 0, first_chunk, Soon()).code(), absl::StatusCode::kDataLoss);
  client_->Release(*std::move(stem));
  EXPECT_EQ(node_->Take(Message::kRelease).release().corrupt_size(), 1);
}

TEST_F(CacheClientTest, ARangeBeyondThePayloadIsRefused) {
  Start();
  HoldBlocks(1);
  auto stem = client_->Acquire(keys_, {}, Soon());
  std::vector<std::byte> memory(2);
  for (const uint64_t offset : {uint64_t{kTestBlockBytes - 1}, uint64_t{kTestBlockBytes + 1}, ~uint64_t{0}}) {
    const std::vector<PayloadRange> ranges = {{.offset = offset, .destination = memory}};
    const absl::Status status = client_->LoadRanges(*stem, 0, ranges, Soon());
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(status.message(), HasSubstr("5000"));
  }
}

// ---- Proof ----------------------------------------------------------------------------------------------

struct Damage {
  const char* field;
  void (*inflict)(SlotHeader& header, std::span<std::byte> payload);
};

class ProofTest : public ClientFixture, public ::testing::WithParamInterface<Damage> {};

TEST_P(ProofTest, DamagedSlotIsRefusedAndReported) {
  Start();
  HoldBlocks(3);
  SlotHeader header = node_->slot(1).header();
  GetParam().inflict(header, node_->slot(1).payload(kTestBlockBytes));
  node_->slot(1).set_header(header);
  v1::SlotRun run = node_->Run(0, 0, 3, v1::SOURCE_REMOTE_DRAM);
  run.set_generations(1, 101);  // what the node believes, whatever the header says
  node_->SetScript([&](const Message& message, v1::NodeMessage& reply) {
    if (!message.has_acquire()) return false;
    reply.mutable_acquired()->set_matched_blocks(3);
    *reply.mutable_acquired()->add_ready() = run;
    return true;
  });
  auto stem = client_->Acquire(std::span(keys_).first(3), {}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  Pages pages(3);
  const LoadResult result = client_->Load(*stem, 0, pages.spans, Soon());
  EXPECT_EQ(result.blocks_loaded, 1u);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(result.status.message(), HasSubstr(GetParam().field));
  EXPECT_EQ(client_->stats().proofs_failed, 1u);
  if (GetParam().field != std::string("digest")) {
    EXPECT_EQ(client_->Read(*stem, 1, Soon()).status().code(), absl::StatusCode::kDataLoss);
  }
  client_->Release(*std::move(stem));
  EXPECT_THAT(node_->Take(Message::kRelease).release().corrupt(), ElementsAre(1));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, ProofTest,
    ::testing::Values(Damage{"digest",
                             [](SlotHeader&, std::span<std::byte> payload) { payload.back() ^= std::byte{1}; }},
                      Damage{"key", [](SlotHeader& header, std::span<std::byte>) { header.name.key.high ^= 1; }},
                      Damage{"namespace", [](SlotHeader& header, std::span<std::byte>) { header.name.space.low ^= 1; }},
                      Damage{"generation", [](SlotHeader& header, std::span<std::byte>) { header.generation++; }},
                      Damage{"length", [](SlotHeader& header, std::span<std::byte>) { header.length = 1ULL << 60; }},
                      Damage{"magic", [](SlotHeader& header, std::span<std::byte>) { header.magic = 0; }},
                      Damage{"version", [](SlotHeader& header, std::span<std::byte>) { header.version = 2; }}),
    [](const auto& damage) { return std::string(damage.param.field); });

TEST_F(CacheClientTest, HeaderProofTrustsBytesOnlyWhileTheSessionLives) {
  Start(1, 64 << 10, LocalProof::kHeader);
  HoldBlocks(1);
  auto stem = client_->Acquire(std::span(keys_).first(1), {}, Soon());
  ASSERT_TRUE(stem.ok()) << stem.status();
  node_->slot(0).payload(kTestBlockBytes)[17] ^= std::byte{1};
  Pages pages(1);
  EXPECT_TRUE(client_->Load(*stem, 0, pages.spans, Soon()).status.ok());
  node_.reset();
  while (client_->connected()) std::this_thread::yield();
  EXPECT_EQ(client_->Load(*stem, 0, pages.spans, Soon()).status.code(), absl::StatusCode::kDataLoss);
}

TEST_F(CacheClientTest, ViewReadsInPlaceAndKeepsThePin) {
  Start();
  HoldBlocks(1);
  auto stem = client_->Acquire(std::span(keys_).first(1), {}, Soon());
  auto view = client_->Read(*stem, 0, Soon());
  ASSERT_TRUE(view.ok()) << view.status();
  const uint64_t pinned = node_->Take(Message::kAcquire).request_id();
  std::atomic<bool> released = false;
  node_->SetScript([&](const Message& message, v1::NodeMessage&) {
    if (message.release().acquire_id() == pinned) released = true;
    return false;
  });
  client_->Release(*std::move(stem));
  ASSERT_TRUE(client_->Acquire(keys_, {}, Soon()).ok());  // the node has read all that was sent before
  EXPECT_FALSE(released);
  EXPECT_EQ(Bytes(view->payload()), Payload(0));
  EXPECT_TRUE(view->intact());
  EXPECT_EQ(client_->Read(Stem(), 0, Soon()).status().code(), absl::StatusCode::kInvalidArgument);
  node_->SetScript(nullptr);
  *view = View();
  while (node_->Take(Message::kRelease).release().acquire_id() != pinned) {
  }
}

// ---- Landed, Lost, silence, nonsense ----------------------------------------------------------------------

class PendingTest : public ClientFixture {
 protected:
  // A stem of 3 promised blocks of which the first is ready.
  Stem AcquirePending() {
    Start();
    HoldBlocks(3);
    node_->LandFrom(1);
    auto stem = client_->Acquire(std::span(keys_).first(3), {}, Soon());
    EXPECT_TRUE(stem.ok()) << stem.status();
    acquire_id_ = node_->Take(Message::kAcquire).request_id();
    return *std::move(stem);
  }

  void Land(uint32_t first, uint32_t count) {
    v1::NodeMessage message;
    message.set_request_id(acquire_id_);
    *message.mutable_landed()->add_ready() = node_->Run(first, first, count, v1::SOURCE_REMOTE_DRAM);
    node_->Send(message);
  }

  uint64_t acquire_id_ = 0;
};

TEST_F(PendingTest, LoadWaitsForBlocksThatLandLater) {
  const Stem stem = AcquirePending();
  EXPECT_EQ(stem.landed_blocks(), 1u);
  Pages pages(3);
  std::thread lander([&] { Land(1, 2); });
  const LoadResult result = client_->Load(stem, 0, pages.spans, Soon());
  lander.join();
  EXPECT_EQ(result.blocks_loaded, 3u) << result.status;
  EXPECT_EQ(Bytes(pages.spans[2]), Payload(2));
  EXPECT_EQ(stem.source(2), v1::SOURCE_REMOTE_DRAM);
  EXPECT_EQ(client_->stats().payloads_loaded[v1::SOURCE_REMOTE_DRAM], 2u);
}

TEST_F(PendingTest, LostBlocksEndTheLoadWithTheirCause) {
  const Stem stem = AcquirePending();
  v1::NodeMessage message;
  message.set_request_id(acquire_id_);
  message.mutable_lost()->set_matched_blocks(1);
  v1::Miss* miss = message.mutable_lost()->add_misses();
  miss->set_first(1);
  miss->set_count(2);
  miss->set_cause(v1::MISS_CAUSE_NODE_LOST);
  Pages pages(3);
  std::thread loser([&] { node_->Send(message); });
  const LoadResult result = client_->Load(stem, 0, pages.spans, Soon());
  loser.join();
  EXPECT_EQ(result.blocks_loaded, 1u);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(result.status.message()), HasSubstr("node_lost"));
  EXPECT_EQ(stem.matched_blocks(), 1u);
  EXPECT_THAT(stem.misses(), ElementsAre(MissRun{.first = 1, .count = 2, .cause = v1::MISS_CAUSE_NODE_LOST}));
  EXPECT_EQ(client_->stats().stems_broken, 1u);
}

TEST_F(PendingTest, LoadEndsAtItsDeadline) {
  const Stem stem = AcquirePending();
  Pages pages(3);
  const LoadResult result = client_->Load(stem, 0, pages.spans, Within(30));
  EXPECT_EQ(result.blocks_loaded, 1u);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(PendingTest, NodeDyingInMidLoadLeavesTheMappingWhole) {
  const Stem stem = AcquirePending();
  Pages pages(3);
  std::thread killer([&] { node_.reset(); });
  const LoadResult result = client_->Load(stem, 0, pages.spans, Soon());
  killer.join();
  EXPECT_EQ(result.blocks_loaded, 1u);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable);
  EXPECT_FALSE(client_->connected());
  // What had landed is still there, and still proved.
  EXPECT_EQ(client_->Load(stem, 0, std::span(pages.spans).first(1), Soon()).blocks_loaded, 1u);
  EXPECT_EQ(Bytes(pages.spans[0]), Payload(0));
}

TEST_F(PendingTest, BadLandedMessageEndsTheStem) {
  for (const char* kind : {"slot", "arena", "position", "twice", "source"}) {
    const Stem stem = AcquirePending();
    v1::NodeMessage message;
    message.set_request_id(acquire_id_);
    v1::SlotRun* run = message.mutable_landed()->add_ready();
    *run = node_->Run(1, 1, 1, v1::SOURCE_REMOTE_DRAM);
    if (kind == std::string("slot")) run->set_slots(0, 0xFFFFFFFF);
    if (kind == std::string("arena")) run->set_arena(8);
    if (kind == std::string("position")) run->set_first(3);
    if (kind == std::string("twice")) run->set_first(0);
    if (kind == std::string("source")) run->set_source(v1::SOURCE_UNSPECIFIED);
    node_->Send(message);
    Pages pages(3);
    const LoadResult result = client_->Load(stem, 0, pages.spans, Soon());
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal) << kind;
    EXPECT_EQ(client_->stats().messages_refused, 1u) << kind;
    client_.reset();
    node_.reset();
  }
}

TEST_F(CacheClientTest, BadAcquiredMessagesAreRefusedAndReleased) {
  Start();
  HoldBlocks(1);
  std::vector<v1::Acquired> bad(5);
  bad[0].set_matched_blocks(7);       // more than asked for
  bad[1].set_matched_blocks(1);       // misses missing
  bad[2].add_misses()->set_count(6);  // no cause
  bad[3].set_matched_blocks(6), *bad[3].add_ready() = node_->Run(5, 0, 2, v1::SOURCE_LOCAL_DRAM);  // beyond the match
  bad[4].set_matched_blocks(6), *bad[4].add_ready() = node_->Run(0, 0, 1, v1::SOURCE_LOCAL_DRAM);
  bad[4].mutable_ready(0)->set_slots(0, 64);  // beyond the arena
  for (size_t i = 0; i < bad.size(); ++i) {
    node_->SetScript([&](const Message& message, v1::NodeMessage& reply) {
      if (message.has_acquire()) *reply.mutable_acquired() = bad[i];
      return message.has_acquire();
    });
    const absl::Status status = client_->Acquire(keys_, {}, Soon()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << i << ": " << status;
    EXPECT_EQ(client_->stats().messages_refused, i + 1);
    EXPECT_EQ(node_->Take(Message::kRelease).release().acquire_id(), node_->Take(Message::kAcquire).request_id());
  }
}

TEST_F(CacheClientTest, RefusalOfTheNodeComesThrough) {
  Start();
  node_->SetScript([](const Message& message, v1::NodeMessage& reply) {
    reply.set_code(static_cast<uint32_t>(absl::StatusCode::kResourceExhausted));
    reply.set_error("4096 pins are held, the limit is 4096");
    return message.has_acquire();
  });
  const absl::Status status = client_->Acquire(keys_, {}, Soon()).status();
  EXPECT_EQ(status, absl::ResourceExhaustedError("4096 pins are held, the limit is 4096"));
}

TEST_F(CacheClientTest, NothingIsAskedAfterTheDeadline) {
  Start();
  HoldBlocks(1);
  for (int i = 0; i < 50; ++i) {  // an answer could be faster than a timer
    EXPECT_EQ(client_->Acquire(keys_, {}, Within(0)).status().code(), absl::StatusCode::kDeadlineExceeded);
  }
  auto stem = client_->Acquire(keys_, {.request = "asked"}, Soon());
  EXPECT_EQ(node_->Take(Message::kAcquire).acquire().request(), "asked");
}

TEST_F(CacheClientTest, SilentNodeEndsAtTheDeadlineAndTheAcquireIsUndone) {
  Start();
  HoldBlocks(1);
  node_->SetScript([](const Message& message, v1::NodeMessage&) { return message.has_acquire(); });
  const absl::Status status = client_->Acquire(keys_, {}, Within(30)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  const uint64_t id = node_->Take(Message::kAcquire).request_id();
  EXPECT_EQ(node_->Take(Message::kRelease).release().acquire_id(), id);
  // The answer that comes too late is nobody's.
  node_->SetScript(nullptr);
  v1::NodeMessage late;
  late.set_request_id(id);
  late.mutable_acquired();
  node_->Send(late);
  EXPECT_TRUE(client_->Acquire(keys_, {}, Soon()).ok());
}

TEST_F(CacheClientTest, NodeThatReadsNothingCannotBlockACall) {
  Start();
  node_->StopReading();
  std::vector<BlockKey> chain(65536);  // 1 MiB: more than the stream's window
  for (size_t i = 0; i < chain.size(); ++i) chain[i].low = i;
  int refused = 0;
  for (int i = 0; i < 200 && refused == 0; ++i) {  // until sockets and windows are full, and the queue
    const absl::Status status = client_->Acquire(chain, {}, Within(50)).status();
    if (absl::IsResourceExhausted(status)) ++refused;
    EXPECT_TRUE(absl::IsDeadlineExceeded(status) || absl::IsResourceExhausted(status)) << status;
  }
  EXPECT_GT(refused, 0);  // what waits to be sent is bounded
}

}  // namespace
}  // namespace stem::testing
