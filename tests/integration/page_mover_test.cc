// An engine's pages to the tier and back, against real nodes: pages of any size, pages that are skipped, staging that is too
// small, and bytes that were altered; pages of the host, and pages that only a device can touch, whose part its twin plays.
#include "client/page_mover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "storage/pool/slot.h"
#include "tests/support/host_copy_queue.h"
#include "tests/support/in_process_cluster.h"
#include "tests/support/publishing.h"

namespace stem {
namespace {

using ::stem::testing::ChainOf;
using ::stem::testing::HostCopyQueue;
using ::testing::HasSubstr;

constexpr uint32_t kPagesPerBlock = 2;
constexpr uint32_t kPageCount = 40;

// Three layers; page sizes make chunks of 4 KiB cross pages.
struct Engine {
  explicit Engine(uint64_t bytes = 6000, unsigned salt = 1) : page_bytes(bytes), memory(3 * kPageCount * stride()) {
    for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 13 + (i >> 9) + salt);
  }
  uint64_t stride() const { return page_bytes + 96; }
  EnginePages pages() {
    EnginePages pages{.parts = {{.id = 0, .planes = {}}}, .page_count = kPageCount, .pages_per_block = {kPagesPerBlock}};
    for (size_t layer = 0; layer < 3; ++layer) {
      pages.parts[0].planes.push_back({memory.data() + layer * kPageCount * stride(), page_bytes, stride()});
    }
    return pages;
  }
  // Bytes of page `id` in all layers.
  std::vector<std::byte> Page(int32_t id) const {
    std::vector<std::byte> bytes;
    for (size_t layer = 0; layer < 3; ++layer) {
      const std::byte* at = memory.data() + (layer * kPageCount + static_cast<uint64_t>(id)) * stride();
      bytes.insert(bytes.end(), at, at + page_bytes);
    }
    return bytes;
  }
  uint64_t block_bytes() const { return 3 * kPagesPerBlock * page_bytes; }
  NamespaceSpec spec() const { return TestSpec(block_bytes()); }

  uint64_t page_bytes;
  std::vector<std::byte> memory;
};

MoveResult Finish(PageMover& mover, MoveJob job) {
  const absl::StatusOr<uint64_t> ticket = mover.Submit(std::move(job));
  EXPECT_TRUE(ticket.ok()) << ticket.status();
  while (true) {
    for (MoveResult& result : mover.Poll()) {
      if (result.ticket == *ticket) return result;
    }
    absl::SleepFor(absl::Milliseconds(1));
  }
}

MoveJob JobOf(bool save, const std::vector<BlockKey>& keys, std::vector<int32_t> pages, uint32_t first_block = 0) {
  return {.save = save,
          .keys = keys,
          .first_block = first_block,
          .pages = std::move(pages),
          .timeout = absl::Seconds(20),
          .request = "r",
          .traceparent = {}};
}

enum class Where { kHost, kDevice };

class PagesTest : public ::testing::Test {
 protected:
  explicit PagesTest(Where where) : where_(where) {}

  EnginePages At(EnginePages pages) {
    if (where_ == Where::kHost) return pages;
    pages.make_queue = [this](size_t pinned_bytes) { return std::make_unique<HostCopyQueue>(device_, pinned_bytes); };
    return pages;
  }
  std::unique_ptr<PageMover> MoverOf(CacheClient& client, Engine& engine, LocalProof proof = LocalProof::kFull) {
    absl::StatusOr<std::unique_ptr<PageMover>> mover = PageMover::Create(client, At(engine.pages()), 1, proof);
    EXPECT_TRUE(mover.ok()) << mover.status();
    return *std::move(mover);
  }

  const Where where_;
  HostCopyQueue::Device device_;
};

class PageMoverTest : public PagesTest, public ::testing::WithParamInterface<Where> {
 protected:
  PageMoverTest() : PagesTest(GetParam()) {}
};

INSTANTIATE_TEST_SUITE_P(Pages, PageMoverTest, ::testing::Values(Where::kHost, Where::kDevice),
                         [](const auto& where) { return std::string(where.param == Where::kHost ? "OfTheHost" : "OfADevice"); });

TEST_P(PageMoverTest, PagesComeBackElsewhereAndOnAnotherNode) {
  for (const uint64_t page_bytes : {6000, 4096, 8192, 100}) {
    InProcessCluster cluster({.nodes = 2});  // one each, as the first namespace of a node decides how large its slots are
    Engine writer(page_bytes, 1), reader(page_bytes, 99);
    const auto client = cluster.Connect(0, writer.spec());
    const std::vector<BlockKey> keys = ChainOf(*client, 4);
    const MoveResult saved = Finish(*MoverOf(*client, writer), JobOf(true, keys, {3, 1, 20, 5, 39, 0, 7, 8}));
    EXPECT_TRUE(saved.status.ok()) << saved.status;
    EXPECT_EQ(saved.blocks_moved, 4u);
    EXPECT_EQ(saved.bytes, 4 * writer.block_bytes());
    cluster.Settle();

    const auto other = cluster.Connect(1, reader.spec());
    const std::vector<std::byte> untouched = reader.Page(9);
    const MoveResult loaded = Finish(*MoverOf(*other, reader), JobOf(false, keys, {10, 11, 12, 13, 14, 15, 16, 17}));
    EXPECT_TRUE(loaded.status.ok()) << loaded.status;
    EXPECT_EQ(loaded.blocks_moved, 4u);
    const std::vector<int32_t> from = {3, 1, 20, 5, 39, 0, 7, 8};
    for (size_t i = 0; i < from.size(); ++i) EXPECT_EQ(reader.Page(static_cast<int32_t>(10 + i)), writer.Page(from[i])) << i;
    EXPECT_EQ(reader.Page(9), untouched);
    EXPECT_EQ(loaded.blocks_from[v1::SOURCE_REMOTE_DRAM], 4u);
  }
}

TEST_P(PageMoverTest, SkippedPagesStayAsTheyAre) {
  InProcessCluster cluster({.nodes = 1});
  Engine writer(6000, 1), reader(6000, 99);
  const auto client = cluster.Connect(0, writer.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 3);
  ASSERT_EQ(Finish(*MoverOf(*client, writer), JobOf(true, keys, {0, 1, 2, 3, 4, 5})).blocks_moved, 3u);
  const std::vector<std::byte> before = reader.Page(2);
  const auto mover = MoverOf(*client, reader);
  // From the middle of the second block on.
  const MoveResult loaded = Finish(*mover, JobOf(false, keys, {kNoPage, 3, 4, 5}, 1));
  EXPECT_EQ(loaded.blocks_moved, 2u) << loaded.status;
  EXPECT_EQ(loaded.bytes, 3u * 3 * 6000) << "three pages of three planes";
  EXPECT_EQ(reader.Page(2), before);
  for (const int32_t page : {3, 4, 5}) EXPECT_EQ(reader.Page(page), writer.Page(page));
  const MoveResult nothing = Finish(*mover, JobOf(false, keys, std::vector<int32_t>(6, kNoPage)));
  EXPECT_EQ(nothing.blocks_moved, 3u);
  EXPECT_EQ(nothing.bytes, 0u);
}

TEST_P(PageMoverTest, SmallStagingIsUsedAgainAndAgain) {
  InProcessCluster cluster({.nodes = 1});
  Engine writer(8192, 1), reader(8192, 7);
  const auto client = cluster.Connect(0, writer.spec(), /*staging_bytes=*/3 * writer.block_bytes());
  const std::vector<BlockKey> keys = ChainOf(*client, 10);
  std::vector<int32_t> pages(20);
  for (int32_t i = 0; i < 20; ++i) pages[static_cast<size_t>(i)] = i;
  const MoveResult saved = Finish(*MoverOf(*client, writer), JobOf(true, keys, pages));
  EXPECT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_EQ(saved.blocks_moved, 10u);
  EXPECT_EQ(Finish(*MoverOf(*client, writer), JobOf(true, keys, pages)).blocks_held, 10u) << "first publish wins";
  EXPECT_EQ(Finish(*MoverOf(*client, reader), JobOf(false, keys, pages)).blocks_moved, 10u);
  for (const int32_t page : pages) EXPECT_EQ(reader.Page(page), writer.Page(page));
}

TEST_P(PageMoverTest, LoadOfWhatLeftLoadsTheLeadingRun) {
  InProcessCluster cluster({.nodes = 1});
  Engine engine;
  const auto client = cluster.Connect(0, engine.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 4);
  const auto mover = MoverOf(*client, engine);
  ASSERT_EQ(Finish(*mover, JobOf(true, {keys.begin(), keys.begin() + 2}, {0, 1, 2, 3})).blocks_moved, 2u);
  const MoveResult loaded = Finish(*mover, JobOf(false, keys, {10, 11, 12, 13, 14, 15, 16, 17}));
  EXPECT_EQ(loaded.blocks_moved, 2u);
  EXPECT_EQ(loaded.status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(loaded.status.message()), HasSubstr("after 2 of 4"));
}

// Writes one byte of the payload of `name` wherever this process has it: the arena's pages, mapped by the node here.
size_t AlterInMemory(const BlockName& name) {
  size_t altered = 0;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long long first = 0, end = 0;
    char mode[5] = {};
    if (std::sscanf(line.c_str(), "%llx-%llx %4s", &first, &end, mode) != 3) continue;
    if (mode[0] != 'r' || mode[1] != 'w' || line.find("memfd:") == std::string::npos) continue;
    for (unsigned long long at = first + kPageBytes - sizeof(SlotHeader); at + sizeof(SlotHeader) < end; at += kPageBytes) {
      auto* header = reinterpret_cast<SlotHeader*>(at);
      if (header->magic != kSlotMagic || !(header->name == name)) continue;
      reinterpret_cast<std::byte*>(header + 1)[5000] ^= std::byte{0x40};
      ++altered;
    }
  }
  return altered;
}

TEST_P(PageMoverTest, AlteredBlockIsRefusedByItsDigestAndOnlyByIt) {
  InProcessCluster cluster({.nodes = 1});
  Engine writer(6000, 1), reader(6000, 99);
  const auto client = cluster.Connect(0, writer.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 3);
  ASSERT_EQ(Finish(*MoverOf(*client, writer), JobOf(true, keys, {0, 1, 2, 3, 4, 5})).blocks_moved, 3u);
  ASSERT_EQ(AlterInMemory({client->fingerprint(), keys[1]}), 1u);

  // Without the digest nobody notices: this is what the proof is for.
  const MoveResult trusting = Finish(*MoverOf(*client, reader, LocalProof::kHeader), JobOf(false, keys, {10, 11, 12, 13, 14, 15}));
  EXPECT_EQ(trusting.blocks_moved, 3u) << trusting.status;
  EXPECT_NE(reader.Page(12), writer.Page(2));

  const MoveResult proving = Finish(*MoverOf(*client, reader), JobOf(false, keys, {20, 21, 22, 23, 24, 25}));
  EXPECT_EQ(proving.blocks_moved, 1u);
  EXPECT_EQ(proving.status.code(), absl::StatusCode::kDataLoss) << proving.status;
  EXPECT_EQ(reader.Page(20), writer.Page(0));
}

TEST_P(PageMoverTest, BadJobsAreRefused) {
  InProcessCluster cluster({.nodes = 1});
  Engine engine;
  const auto client = cluster.Connect(0, engine.spec());
  const auto mover = MoverOf(*client, engine);
  const std::vector<BlockKey> keys = ChainOf(*client, 2);
  EXPECT_THAT(std::string(mover->Submit(JobOf(false, keys, {1, 2, 3})).status().message()), HasSubstr("need 4"));
  EXPECT_THAT(std::string(mover->Submit(JobOf(false, keys, {1, 2, 3, 40})).status().message()), HasSubstr("page 40"));
  EXPECT_THAT(std::string(mover->Submit(JobOf(true, keys, {1, 2, 3, -2})).status().message()), HasSubstr("page -2"));
  EXPECT_THAT(std::string(mover->Submit(JobOf(true, keys, {}, 2)).status().message()), HasSubstr("first_block"));
  EnginePages wrong = engine.pages();
  wrong.parts[0].planes.pop_back();
  EXPECT_THAT(std::string(PageMover::Create(*client, wrong).status().message()), HasSubstr("24000 bytes"));
  EXPECT_EQ(mover->outstanding(), 0u);
}

// A hybrid model: layer 0 attends to everything and has pages of the whole block; layers 1 and 2 have a window of 20 tokens, so of two blocks
// at 16 a block, and block tables of their own with half as many tokens a page.
struct HybridEngine : Engine {
  using Engine::Engine;
  EnginePages pages() {
    EnginePages pages{.parts = {{.id = 0, .planes = {}}, {.id = 1, .planes = {}}}, .page_count = kPageCount, .pages_per_block = {1, 2, 2}};
    for (uint32_t layer = 0; layer < 3; ++layer) {
      pages.parts[layer == 0 ? 0 : 1].planes.push_back({memory.data() + layer * kPageCount * stride(), page_bytes, stride(), layer});
    }
    return pages;
  }
  NamespaceSpec spec() const {
    NamespaceSpec spec = TestSpec(page_bytes);
    spec.parts.push_back({.id = 1, .group = GroupKind::kWindow, .window_tokens = 20, .layer_first = 1, .block_bytes = 4 * page_bytes});
    return spec;
  }
  std::vector<std::byte> Page(uint32_t layer, int32_t id) const {
    const auto first = static_cast<std::ptrdiff_t>((layer * kPageCount + static_cast<uint64_t>(id)) * stride());
    return {memory.begin() + first, memory.begin() + first + static_cast<std::ptrdiff_t>(page_bytes)};
  }
};

TEST_P(PageMoverTest, WindowsOfAHybridModelComeBackInTheirOwnPages) {
  constexpr int32_t kNone = kNoPage;
  InProcessCluster cluster({.nodes = 2});
  HybridEngine writer(6000, 1), reader(6000, 99);
  const auto client = cluster.Connect(0, writer.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 4);
  absl::StatusOr<std::unique_ptr<PageMover>> saver = PageMover::Create(*client, At(writer.pages()));
  ASSERT_TRUE(saver.ok()) << saver.status();
  // The first block's window has left one table already: its full part alone is published.
  const MoveResult saved = Finish(**saver, JobOf(true, keys, {0, 1, 2, 3, /**/ 10, 11, 12, 13, 14, 15, 16, 17, /**/ 20, kNone, 22, 23, 24, 25, 26, 27}));
  EXPECT_TRUE(saved.status.ok()) << saved.status;
  EXPECT_EQ(saved.blocks_moved, 4u + 3u);
  EXPECT_EQ(saved.bytes, (4 + 3 * 4) * 6000u);
  cluster.Settle();

  const auto other = cluster.Connect(1, reader.spec());
  absl::StatusOr<std::unique_ptr<PageMover>> loader = PageMover::Create(*other, At(reader.pages()));
  ASSERT_TRUE(loader.ok()) << loader.status();
  const std::vector<std::byte> untouched = reader.Page(1, 31);
  // The engine has the first block itself, and of the window's first block only the second page.
  const MoveResult loaded = Finish(**loader, JobOf(false, keys, {kNone, 5, 6, 7, /**/ kNone, kNone, kNone, kNone, kNone, 30, 32, 33,
                                                                 /**/ kNone, kNone, kNone, kNone, kNone, 34, 35, 36}));
  EXPECT_TRUE(loaded.status.ok()) << loaded.status;
  EXPECT_EQ(loaded.blocks_moved, 4u);
  EXPECT_EQ(loaded.bytes, (3 + 2 * 3) * 6000u);
  for (const int32_t page : {1, 2, 3}) EXPECT_EQ(reader.Page(0, page + 4), writer.Page(0, page));
  const std::vector<int32_t> windows[] = {{30, 32, 33}, {34, 35, 36}};
  for (uint32_t table : {1u, 2u}) {
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(reader.Page(table, windows[table - 1][i]), writer.Page(table, static_cast<int32_t>(10 * table + 5 + i)));
    }
  }
  EXPECT_EQ(reader.Page(1, 31), untouched);

  // Of a shorter stem nobody has the window, so nothing is loaded.
  const std::vector<BlockKey> first = {keys.begin(), keys.begin() + 1};
  const MoveResult none = Finish(**loader, JobOf(false, first, {5, /**/ 10, 11, /**/ 12, 13}));
  EXPECT_EQ(none.blocks_moved, 0u);
  EXPECT_EQ(none.bytes, 0u);
  EXPECT_EQ(none.status.code(), absl::StatusCode::kNotFound) << none.status;
}

TEST_P(PageMoverTest, DeadNodeFailsLoadsAndItsSuccessorServesAgain) {
  InProcessCluster cluster({.nodes = 1});
  Engine engine;
  const auto client = cluster.Connect(0, engine.spec());
  const auto mover = MoverOf(*client, engine);
  const std::vector<BlockKey> keys = ChainOf(*client, 2);
  cluster.StopNode(0);
  MoveJob job = JobOf(false, keys, {1, 2, 3, 4});
  job.timeout = absl::Milliseconds(200);
  EXPECT_FALSE(Finish(*mover, job).status.ok());
  cluster.StartNode(0);
  while (Finish(*mover, JobOf(true, keys, {1, 2, 3, 4})).blocks_moved != 2) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(Finish(*mover, JobOf(false, keys, {5, 6, 7, 8})).status.ok());
}

class DevicePagesTest : public PagesTest {
 protected:
  DevicePagesTest() : PagesTest(Where::kDevice) {}
};

TEST_F(DevicePagesTest, MorePayloadsThanPinnedMemoryHolds) {
  InProcessCluster cluster({.nodes = 1, .dram_bytes = 64 << 20});
  Engine writer(256 << 10, 1), reader(256 << 10, 99);  // blocks of 1.5 MiB: ten rooms of pinned memory
  const auto client = cluster.Connect(0, writer.spec(), /*staging_bytes=*/20 * writer.block_bytes());
  const std::vector<BlockKey> keys = ChainOf(*client, 20);
  std::vector<int32_t> pages(40), turned(40);
  for (int32_t i = 0; i < 40; ++i) {
    pages[static_cast<size_t>(i)] = i;
    turned[static_cast<size_t>(i)] = 39 - i;
  }
  EXPECT_EQ(Finish(*MoverOf(*client, writer), JobOf(true, keys, pages)).blocks_moved, 20u);
  const auto mover = MoverOf(*client, reader);
  EXPECT_EQ(Finish(*mover, JobOf(false, keys, turned)).blocks_moved, 20u);
  for (int32_t page = 0; page < 40; ++page) ASSERT_EQ(reader.Page(39 - page), writer.Page(page)) << page;
  EXPECT_EQ(mover->Run(JobOf(false, keys, pages)).blocks_moved, 20u) << "and in the caller's thread";
  for (int32_t page = 0; page < 40; ++page) ASSERT_EQ(reader.Page(page), writer.Page(page)) << page;
}

TEST_F(DevicePagesTest, WhatADeviceCouldNotDoIsNeitherLoadedNorPublished) {
  InProcessCluster cluster({.nodes = 1});
  Engine engine;
  const auto client = cluster.Connect(0, engine.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 3);
  device_.works_until_failure = 2;
  const MoveResult unsaved = Finish(*MoverOf(*client, engine), JobOf(true, keys, {0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(unsaved.blocks_moved, 0u);
  EXPECT_EQ(unsaved.status.code(), absl::StatusCode::kInternal) << unsaved.status;
  EXPECT_EQ((*client->Acquire(keys, {}, absl::Now() + absl::Seconds(20))).matched_blocks(), 0u) << "and its keys are free again";

  device_.works_until_failure = INT64_MAX;
  EXPECT_EQ(Finish(*MoverOf(*client, engine), JobOf(true, keys, {0, 1, 2, 3, 4, 5})).blocks_moved, 3u);
  device_.works_until_failure = device_.works_done + 1;
  const MoveResult unloaded = Finish(*MoverOf(*client, engine), JobOf(false, keys, {6, 7, 8, 9, 10, 11}));
  EXPECT_EQ(unloaded.blocks_moved, 0u);
  EXPECT_EQ(unloaded.blocks_from[v1::SOURCE_LOCAL_DRAM], 0u);
  EXPECT_EQ(unloaded.status.code(), absl::StatusCode::kInternal) << unloaded.status;
}

TEST_P(PageMoverTest, NothingIsTouchedBeforeTheEnginesOwnWorkHasEnded) {
  InProcessCluster cluster({.nodes = 1});
  Engine writer(6000, 1), reader(6000, 99);
  const auto client = cluster.Connect(0, writer.spec());
  const std::vector<BlockKey> keys = ChainOf(*client, 1);
  // The engine writes the page when it is asked for the third time.
  const std::vector<std::byte> before = writer.Page(0);
  MoveJob save = JobOf(true, keys, {0, 1});
  save.after = [&, asked = 0]() mutable {
    if (++asked < 3) return false;
    for (std::byte& each : writer.memory) each ^= std::byte{0x5A};
    return true;
  };
  EXPECT_EQ(Finish(*MoverOf(*client, writer), save).blocks_moved, 1u);
  EXPECT_NE(writer.Page(0), before);
  const std::vector<std::byte> untouched = reader.Page(2);
  MoveJob load = JobOf(false, keys, {2, 3});
  load.after = [] { return false; };
  load.timeout = absl::Milliseconds(50);
  const auto mover = MoverOf(*client, reader);
  EXPECT_EQ(Finish(*mover, load).status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(reader.Page(2), untouched);
  load.after = []() -> absl::StatusOr<bool> { return absl::InternalError("the step failed"); };
  EXPECT_EQ(Finish(*mover, load).status.message(), "the step failed");
  load.after = nullptr;
  load.timeout = absl::Seconds(20);
  EXPECT_EQ(Finish(*mover, load).blocks_moved, 1u);
  EXPECT_EQ(reader.Page(2), writer.Page(0)) << "what the engine wrote meanwhile was saved";
  // A mover ends though the engine does not.
  load.after = [] { return false; };
  load.timeout = absl::InfiniteDuration();
  EXPECT_TRUE(mover->Submit(load).ok());
}

TEST_F(DevicePagesTest, AGpuThatIsNotThereIsToldAtOnce) {
  InProcessCluster cluster({.nodes = 1});
  Engine engine;
  const auto client = cluster.Connect(0, engine.spec());
  EnginePages pages = engine.pages();
  pages.make_queue = [](size_t pinned_bytes) { return MakeGpuQueue(99, pinned_bytes); };
  const absl::Status status = PageMover::Create(*client, pages).status();
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status, MakeGpuQueue(99, 4096).status());
}

}  // namespace
}  // namespace stem
