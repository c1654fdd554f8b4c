// What the spiller writes of a namespace that asks for codes: codes of good payloads, and the rest as it is.
#include "services/node/tiers/spiller.h"

#include <cstring>
#include <sstream>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"
#include "tests/support/eventually.h"
#include "tests/support/memory_spill_store.h"

namespace stem {
namespace {

constexpr uint64_t kValues = 4096;
constexpr uint64_t kBlockBytes = 2 * kValues;
constexpr uint64_t kRecordBytes = kValues / 128 * 132;
constexpr uint64_t kBlocks = 80;  // of 85 slots, of which the spiller keeps 10 free

enum Kind : uint64_t { kGood, kRotten, kInfinite, kKinds };  // of block n: n % kKinds

class SpillerTest : public ::testing::Test {
 protected:
  SpillerTest()
      : log_({.process = "test", .out = &lines_}),
        spaces_(*SpaceTable::Create({.groups = {{.name = "a", .uids = {1000}, .dram_bytes = 1 << 20}}, .ssd_bytes = 64 << 20},
                                    std::vector<uint8_t>(32, 7))) {}

  const Space& Register(SpillEncoding encoding) {
    NamespaceSpec spec;
    spec.model = std::string("m");
    spec.kv_dtype = std::string("bf16");
    spec.layout = std::string("nhd");
    spec.block_tokens = 16;
    spec.parts = {{.head_count = 1, .block_bytes = kBlockBytes}};
    spec.spill_encoding = encoding;
    return *spaces_->Register(spec, 1000, "")->space;
  }
  static void Publish(const Space& space) {
    for (uint64_t number = 0; number < kBlocks; ++number) {
      const BlockName name{space.fingerprint, BlockKey{{.low = number, .high = 1}}};
      Filling filling = *space.pool().BeginFill(name, std::nullopt, absl::Now());
      const std::span<std::byte> payload = filling.view().payload(kBlockBytes);
      for (size_t i = 0; i < kValues; ++i) {
        const uint16_t value = quant::ToBf16(static_cast<float>(i % 77) + static_cast<float>(number));
        std::memcpy(payload.data() + 2 * i, &value, sizeof(value));
      }
      const uint16_t infinity = 0x7F80;
      if (number % kKinds == kInfinite) std::memcpy(payload.data() + 100, &infinity, sizeof(infinity));
      const uint64_t digest = Digest(name, payload, filling.view().chunk_hashes(ChunkCount(kBlockBytes)));
      ASSERT_TRUE(std::move(filling).Commit(kBlockBytes, number % kKinds == kRotten ? digest ^ 1 : digest, 3).ok());
    }
  }
  // Some of each kind, once the spiller has its slots free.
  std::vector<BlockMeta> Spilled() {
    std::vector<BlockMeta> records;
    const auto some_of_each = [&] {
      records.clear();
      EXPECT_TRUE(store_.ForEach([&](const BlockMeta& record) { records.push_back(record); }).ok());
      return records.size() >= 10;
    };
    EXPECT_TRUE(Eventually(some_of_each));
    return records;
  }

  std::ostringstream lines_;
  Logger log_;
  NodeMetrics metrics_{"node-1"};
  Tracer tracer_{{}, "stem-node", "node-1", log_};
  const RequestSinks sinks_{.metrics = metrics_, .tracer = tracer_, .log = [](const RequestFacts&) {}};
  LatestPublish latest_;
  MemorySpillStore store_;
  std::unique_ptr<SpaceTable> spaces_;
};

TEST_F(SpillerTest, GoodPayloadsAreEncodedAndWhatIsNotGoodIsWrittenAsItIs) {
  const Space& space = Register(SpillEncoding::kInt8);
  Publish(space);
  uint64_t of_kind[kKinds] = {};
  {
    Spiller spiller(*spaces_, store_, latest_, sinks_, log_);
    Spilled();
  }
  for (const BlockMeta& record : Spilled()) {
    const uint64_t kind = record.name.key.low % kKinds;
    ++of_kind[kind];
    EXPECT_EQ(record.encoding != 0, kind == kGood);
    EXPECT_EQ(record.length, kind == kGood ? kRecordBytes : kBlockBytes);
    std::vector<std::byte> bytes(record.length);
    std::vector<uint64_t> hashes(ChunkCount(record.length));
    SpillRead read{.name = record.name, .payload = bytes, .chunk_hashes = hashes, .meta = {}, .status = absl::OkStatus()};
    store_.Get(std::span(&read, 1));
    EXPECT_EQ(read.status.ok(), kind != kRotten) << "bytes that went bad in memory must not get a digest that proves them: " << read.status;
  }
  for (const uint64_t count : of_kind) EXPECT_GT(count, 0u);
  ASSERT_EQ(metrics_.Encoded().size(), 1u);
  EXPECT_EQ(metrics_.Encoded()[0].payloads(), of_kind[kGood]);
  EXPECT_EQ(metrics_.Encoded()[0].payloads_kept(), of_kind[kInfinite]);
  EXPECT_LT(metrics_.Encoded()[0].largest_error(), 0.01);
}

TEST_F(SpillerTest, ExactNamespaceIsWrittenAsItIs) {
  Publish(Register(SpillEncoding::kExact));
  Spiller spiller(*spaces_, store_, latest_, sinks_, log_);
  for (const BlockMeta& record : Spilled()) {
    EXPECT_EQ(record.encoding, 0u);
    EXPECT_EQ(record.length, kBlockBytes);
  }
  EXPECT_TRUE(metrics_.Encoded().empty());
}

}  // namespace
}  // namespace stem
