// Which tokens stay, and that compaction moves exactly those.
#include "kernels/retention.h"

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(RetentionTest, WindowAndSinks) {
  EXPECT_THAT(KeepWindow(6, 2), ElementsAre(4, 5));
  EXPECT_THAT(KeepWindow(2, 6), ElementsAre(0, 1));
  EXPECT_THAT(KeepWindow(3, 0), IsEmpty());
  EXPECT_THAT(KeepSinksAndWindow(10, 2, 3), ElementsAre(0, 1, 7, 8, 9));
  EXPECT_THAT(KeepSinksAndWindow(4, 3, 3), ElementsAre(0, 1, 2, 3)) << "they may meet, but never twice";
  EXPECT_THAT(KeepSinksAndWindow(2, 5, 1), ElementsAre(0, 1));
}

TEST(RetentionTest, HeavyHittersAreTheHighestOfTheOlderTokens) {
  const std::vector<float> scores = {0.1F, 9, 0.5F, 9, NAN, 3, 0, 100};
  EXPECT_THAT(KeepHeavyHitters(scores, 2, 2), ElementsAre(1, 3, 6, 7));
  EXPECT_THAT(KeepHeavyHitters(scores, 1, 2), ElementsAre(3, 6, 7)) << "of equals the later";
  EXPECT_THAT(KeepHeavyHitters(scores, 5, 2), ElementsAre(0, 1, 2, 3, 5, 6, 7)) << "a NaN is the lowest";
  EXPECT_THAT(KeepHeavyHitters(scores, 0, 0), IsEmpty());
  EXPECT_THAT(KeepHeavyHitters(scores, 99, 99), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_THAT(KeepHeavyHitters({}, 3, 3), IsEmpty());
}

TEST(RetentionTest, HeavyHittersMatchAFullSort) {
  std::mt19937 random(20261125);
  for (int round = 0; round < 100; ++round) {
    std::vector<float> scores(1 + random() % 300);
    for (float& score : scores) score = static_cast<float>(random() % 40);
    const uint32_t heavy = random() % 64, window = random() % 64;
    const size_t older = scores.size() - std::min<size_t>(window, scores.size());
    std::vector<uint32_t> order(older);
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](uint32_t a, uint32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a > b;
    });
    order.resize(std::min<size_t>(heavy, older));
    std::ranges::sort(order);
    for (size_t i = older; i < scores.size(); ++i) order.push_back(static_cast<uint32_t>(i));
    ASSERT_EQ(KeepHeavyHitters(scores, heavy, window), order) << round;
  }
}

struct Case {
  BlockShape shape;
  uint64_t row_gap;  // between rows of a page
};

TEST(RetentionTest, CompactionMovesKeptTokensAndNothingElse) {
  const Case cases[] = {
      {{PageOrder::kNhd, 0, 4, 3, 16, 8, 1, 2}, 0},  {{PageOrder::kHnd, 0, 5, 3, 16, 16, 0, 2}, 0},
      {{PageOrder::kNhd, 0, 16, 2, 7, 9, 0, 1}, 9},  {{PageOrder::kHnd, 0, 33, 2, 8, 8, 0, 1}, 8},
      {{PageOrder::kLatent, 0, 8, 1, 20, 0, 0, 1}, 0}, {{PageOrder::kOpaque, 0, 1, 1, 31, 0, 0, 1}, 0},
  };
  std::mt19937 random(7);
  for (const auto& [shape, gap] : cases) {
    const uint64_t stride = (std::max(shape.key_bytes, shape.value_bytes) + gap) * shape.page_tokens * shape.heads;
    const uint32_t layers = shape.layer_first + shape.layer_count, page_count = 9;
    std::vector<std::vector<std::byte>> planes(2 * layers, std::vector<std::byte>(stride * page_count));
    std::vector<LayerPages> bases;
    for (auto& plane : planes) {
      for (std::byte& byte : plane) byte = static_cast<std::byte>(random());
    }
    for (uint32_t i = 0; i < layers; ++i) bases.push_back({planes[2 * i].data(), planes[2 * i + 1].data()});
    PagedCache cache = {bases, stride, page_count};
    if (gap > 0) cache.row_stride_bytes[0] = cache.row_stride_bytes[1] = std::max(shape.key_bytes, shape.value_bytes) + gap;
    const std::vector<uint32_t> pages = {8, 1, 5, 0, 3};
    const uint32_t tokens = 5 * shape.page_tokens;
    std::vector<uint32_t> kept;
    for (uint32_t token = 0; token < tokens; ++token) {
      if (random() % 3 == 0) kept.push_back(token);
    }
    if (kept.empty()) kept.push_back(tokens - 1);
    auto expected = planes;
    const auto at = [&](int plane, uint32_t token, uint32_t head) {
      const uint64_t bytes = plane == 0 ? shape.key_bytes : shape.value_bytes;
      const uint64_t row = gap > 0 ? cache.row_stride_bytes[plane] : bytes;
      const uint64_t t = token % shape.page_tokens;
      const uint64_t n = shape.order == PageOrder::kHnd ? head * shape.page_tokens + t : t * shape.heads + head;
      return pages[token / shape.page_tokens] * stride + n * row;
    };
    for (uint32_t layer = shape.layer_first; layer < layers; ++layer) {
      for (int plane = 0; plane < (shape.value_bytes == 0 ? 1 : 2); ++plane) {
        const uint64_t bytes = plane == 0 ? shape.key_bytes : shape.value_bytes;
        for (uint32_t i = 0; i < kept.size(); ++i) {
          for (uint32_t head = 0; head < shape.heads; ++head) {
            std::memcpy(&expected[2 * layer + plane][at(plane, i, head)],
                        &planes[2 * layer + plane][at(plane, kept[i], head)], bytes);
          }
        }
      }
    }
    const absl::Status status = CompactTokens(shape, cache, pages, kept);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(planes == expected);
  }
  EXPECT_EQ(CompactedPages(17, 16), 2u);
  EXPECT_EQ(CompactedPages(16, 16), 1u);
}

TEST(RetentionTest, ListsThatAreNoneAreRefused) {
  std::vector<std::byte> memory(8192);
  const std::vector<std::byte> before = memory;
  const std::vector<LayerPages> layers = {{memory.data(), memory.data() + 4096}};
  const PagedCache cache = {layers, 512, 8};
  BlockShape shape = {PageOrder::kNhd, 0, 16, 2, 16, 16, 0, 1};
  const auto refused = [&](std::vector<uint32_t> pages, std::vector<uint32_t> kept, const char* message) {
    const absl::Status status = CompactTokens(shape, cache, pages, kept);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  refused({0, 1}, {}, "no token is kept");
  refused({}, {1}, "the page table is empty");
  refused({0, 1}, {3, 3}, "kept token 3 at 1 follows 3; they must ascend");
  refused({0, 1}, {1, 32}, "kept token 32 at 1; the pages hold 32");
  refused({0, 0}, {1}, "page 0 is listed twice");
  refused({0, 8}, {1}, "page 8 at 1; the cache has 8 pages");
  shape.slice.count = 1;
  refused({0}, {1}, "a slice of heads");
  shape = {PageOrder::kOpaque, 0, 16, 1, 512, 0, 0, 1};
  refused({0}, {1}, "opaque pages of 16 tokens");
  shape = {PageOrder::kNhd, 0, 16, 2, 16, 16, 0, 0};
  refused({0}, {1}, "layer_count is 0");
  EXPECT_TRUE(memory == before);
}

}  // namespace
}  // namespace stem
