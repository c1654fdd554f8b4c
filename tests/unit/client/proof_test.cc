// Ranges of a slot, proved by the chunks that they touch: what comes, and what one wrong byte fails.
#include "client/proof.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "kernels/checksum.h"

namespace stem {
namespace {

constexpr uint64_t kBytes = 100 * kChunkBytes + 33;  // longer than a run, and a short chunk at the end

class RangesTest : public testing::Test {
 protected:
  RangesTest() : memory_(geometry_.slot_bytes), hashes_(ChunkCount(kBytes)) {
    for (std::byte& byte : payload()) byte = static_cast<std::byte>(random_());
    SlotHeader header{.name = expected_.name, .generation = expected_.generation, .length = kBytes};
    header.digest = Digest(header.name, payload(), view_.chunk_hashes(ChunkCount(kBytes)));
    view_.set_header(header);
  }

  std::span<std::byte> payload() { return view_.payload(kBytes); }
  absl::Status Copy(uint64_t offset, uint64_t bytes, std::vector<std::byte>& to) {
    to.assign(bytes, std::byte{0});
    const std::vector<PayloadRange> ranges = {{.offset = offset, .destination = to}};
    return CopyRangesProved(SlotView<const std::byte>(memory_, geometry_), expected_, ranges, hashes_);
  }
  uint64_t Below(uint64_t end) { return random_() % end; }

  std::mt19937_64 random_{5};
  const SlotGeometry geometry_ = SlotGeometry::For(kBytes);
  std::vector<std::byte> memory_;
  SlotView<std::byte> view_{memory_, geometry_};
  Expected expected_{.name = {}, .generation = 3, .length = kBytes};
  std::vector<uint64_t> hashes_;
};

TEST_F(RangesTest, AnyRangeIsCopiedExactly) {
  std::vector<std::byte> to;
  for (int i = 0; i < 300; ++i) {
    uint64_t offset = Below(kBytes + 1);
    if (i % 2 == 0) offset -= offset % kChunkBytes;
    const uint64_t bytes = i % 7 == 0 ? kBytes - offset : Below(kBytes - offset + 1);
    ASSERT_TRUE(Copy(offset, bytes, to).ok());
    ASSERT_TRUE(std::ranges::equal(to, payload().subspan(offset, bytes))) << offset << " " << bytes;
  }
}

TEST_F(RangesTest, RangesMeetInsideAChunk) {
  std::vector<std::byte> whole(kBytes);
  std::vector<PayloadRange> ranges;
  for (uint64_t at = 0; at < kBytes;) {
    const uint64_t bytes = std::min(1 + Below(3 * kChunkBytes), kBytes - at);
    ranges.push_back({.offset = at, .destination = std::span(whole).subspan(at, bytes)});
    at += bytes;
  }
  ASSERT_TRUE(CopyRangesProved(SlotView<const std::byte>(memory_, geometry_), expected_, ranges, hashes_).ok());
  EXPECT_TRUE(std::ranges::equal(whole, payload()));
}

TEST_F(RangesTest, AWrongByteFailsWhatTouchesItsChunkAndNothingElse) {
  std::vector<std::byte> to;
  for (int i = 0; i < 100; ++i) {
    const uint64_t wrong = Below(kBytes);
    payload()[wrong] ^= std::byte{4};
    const uint64_t chunk = wrong / kChunkBytes * kChunkBytes;
    const uint64_t chunk_end = std::min(chunk + kChunkBytes, kBytes);
    EXPECT_EQ(Copy(chunk, chunk_end - chunk, to).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(Copy(0, kBytes, to).code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(Copy(chunk_end - 1, 1, to).code(), absl::StatusCode::kDataLoss);
    EXPECT_TRUE(Copy(0, chunk, to).ok());
    EXPECT_TRUE(Copy(chunk_end, kBytes - chunk_end, to).ok());
    payload()[wrong] ^= std::byte{4};
  }
}

TEST_F(RangesTest, AHashThatFitsItsChunkButNotTheDigestFails) {
  payload()[5 * kChunkBytes] ^= std::byte{1};
  view_.chunk_hashes(ChunkCount(kBytes))[5] = ChunkHash(payload().subspan(5 * kChunkBytes, kChunkBytes));
  std::vector<std::byte> to;
  EXPECT_EQ(Copy(0, kChunkBytes, to).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace stem
