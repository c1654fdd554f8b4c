// What rots in memory is found without a reader, and at the pace that was asked for.
#include "services/node/tiers/scrubber.h"

#include <sstream>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "kernels/checksum.h"
#include "proto/namespace_spec.h"

namespace stem {
namespace {

constexpr uint64_t kBlockBytes = 4096;

class ScrubberTest : public ::testing::Test {
 protected:
  ScrubberTest() : metrics_("n1"), log_({.process = "test", .out = &lines_}), promoter_(nullptr, metrics_, log_) {
    spaces_ = *SpaceTable::Create({.groups = {{.name = "default", .uids = {1}, .dram_bytes = 1 << 20}},
                                   .on_change = [](const BlockChange&) {}},
                                  std::vector<uint8_t>(32, 's'));
    space_ = spaces_->Register({.model = "m",
                                .kv_dtype = "opaque",
                                .layout = "opaque",
                                .block_tokens = 16,
                                .parts = {{.id = 0, .block_bytes = kBlockBytes}}},
                               1, "")
                 ->space;
    for (uint64_t number = 0; number < 20; ++number) Publish(number);
  }

  BlockName Name(uint64_t number) const { return {space_->fingerprint, {{.low = number, .high = 3}}}; }
  void Publish(uint64_t number) {
    Filling filling = *space_->pool().BeginFill(Name(number), std::nullopt, absl::Now());
    const std::span<std::byte> payload = filling.view().payload(kBlockBytes);
    std::fill(payload.begin(), payload.end(), static_cast<std::byte>(number));
    const uint64_t digest = Digest(Name(number), payload, filling.view().chunk_hashes(ChunkCount(kBlockBytes)));
    ASSERT_TRUE(std::move(filling).Commit(kBlockBytes, digest, 7).ok());
  }
  // A bit of block `number` turns over.
  void Rot(uint64_t number) {
    const BlockPin pin = space_->pool().Pin(Name(number));
    ASSERT_TRUE(pin.valid());
    const SlotGeometry& geometry = space_->pool().geometry();
    spaces_->memories()[0]->arena.bytes()[pin.slot() * geometry.slot_bytes + geometry.payload_offset + 99] ^= std::byte{16};
  }
  double Scrubbed() {
    MetricsPage page;
    metrics_.Fill(page);
    return page.Value("stemcache_node_scrubbed_blocks_total");
  }

  NodeMetrics metrics_;
  std::ostringstream lines_;
  Logger log_;
  Promoter promoter_;
  std::unique_ptr<SpaceTable> spaces_;
  const Space* space_ = nullptr;
};

TEST_F(ScrubberTest, ARottenBlockIsWithdrawnWithinThePeriod) {
  Rot(13);
  Scrubber scrubber(absl::Seconds(1000), *spaces_, promoter_, metrics_);
  absl::Time now = absl::UnixEpoch();
  for (int step = 0; step <= 1000; ++step) scrubber.Step(now += absl::Seconds(1));
  EXPECT_EQ(space_->pool().Find(Name(13)), BlockPool::Presence::kAbsent);
  EXPECT_EQ(space_->pool().stats().blocks_dram, 19u);
  EXPECT_EQ(metrics_.integrity_failures(), 1u);
  EXPECT_GE(Scrubbed(), 20);
}

TEST_F(ScrubberTest, APauseIsNotMadeUpForAtOnce) {
  Scrubber scrubber(absl::Seconds(10), *spaces_, promoter_, metrics_);
  const absl::Time begin = absl::UnixEpoch();
  scrubber.Step(begin);
  EXPECT_EQ(Scrubbed(), 0) << "the first call only looks at the clock";
  scrubber.Step(begin + absl::Hours(1));
  EXPECT_GT(Scrubbed(), 0);
  EXPECT_LE(Scrubbed(), 8);
}

TEST_F(ScrubberTest, APeriodOfZeroMeansNever) {
  Scrubber scrubber(absl::ZeroDuration(), *spaces_, promoter_, metrics_);
  scrubber.Step(absl::UnixEpoch());
  scrubber.Step(absl::UnixEpoch() + absl::Hours(100));
  EXPECT_EQ(Scrubbed(), 0);
}

}  // namespace
}  // namespace stem
