// Gather and scatter against a scalar reference that places every byte by its coordinates.
#include "kernels/block_copy.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr std::byte kUntouched{0xA5};

// An engine's cache of random bytes: each plane of each layer its own allocation.
struct TestCache {
  TestCache(const BlockShape& shape, uint32_t layers, uint32_t page_count, uint64_t gap_bytes, uint64_t seed)
      : stride(uint64_t{shape.page_rows()} * shape.heads * std::max(shape.key_bytes, shape.value_bytes) + gap_bytes) {
    std::mt19937 random(static_cast<uint32_t>(seed));
    for (uint32_t i = 0; i < 2 * layers; ++i) {
      planes.emplace_back(stride * page_count);
      for (std::byte& byte : planes.back()) byte = static_cast<std::byte>(random());
    }
    for (uint32_t i = 0; i < layers; ++i) {
      bases.push_back({planes[2 * i].data(), shape.value_bytes == 0 ? nullptr : planes[2 * i + 1].data()});
    }
    cache = {bases, stride, page_count};
  }
  TestCache(const TestCache&) = delete;

  uint64_t stride;
  std::vector<std::vector<std::byte>> planes;
  std::vector<LayerPages> bases;
  PagedCache cache;
};

// Calls visit(byte in the cache, offset in the block) for every byte of a block, by the words of proto/FORMAT.md.
template <typename Visit>
void ForEachByte(const BlockShape& s, const PagedCache& cache, const std::vector<uint32_t>& pages, Visit visit) {
  size_t offset = 0;
  const uint32_t rows = s.order == PageOrder::kOpaque ? 1 : s.page_tokens;
  for (uint32_t layer = 0; layer < s.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      const LayerPages& base = cache.layers[s.layer_first + layer];
      const uint64_t row_bytes = plane == 0 ? s.key_bytes : s.value_bytes;
      for (uint32_t token = 0; row_bytes > 0 && token < rows * pages.size(); ++token) {
        for (uint32_t head = 0; head < s.heads; ++head) {
          const uint64_t t = token % rows;
          const uint64_t row = s.order == PageOrder::kHnd ? head * rows + t : t * s.heads + head;
          std::byte* at = (plane == 0 ? base.keys : base.values) + pages[token / rows] * cache.page_stride_bytes;
          for (uint64_t i = 0; i < row_bytes; ++i) visit(at[row * row_bytes + i], offset++);
        }
      }
    }
  }
  ASSERT_EQ(offset, s.block_bytes());
}

std::vector<uint32_t> RandomPages(uint32_t count, uint32_t page_count, uint64_t seed) {
  std::vector<uint32_t> pages(page_count);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(static_cast<uint32_t>(seed)));
  pages.resize(count);
  return pages;
}

std::vector<BlockShape> Shapes() {
  std::vector<BlockShape> shapes;
  for (PageOrder order : {PageOrder::kNhd, PageOrder::kHnd}) {
    shapes.push_back({order, 1, 1, 1, 1, 1, 0, 1});          // one token, one byte
    shapes.push_back({order, 16, 16, 8, 32, 32, 0, 3});      // one page
    shapes.push_back({order, 64, 16, 2, 64, 64, 1, 2});      // layers in the middle
    shapes.push_back({order, 33, 11, 3, 20, 12, 0, 2});      // odd pages, K and V of different width
    shapes.push_back({order, 31, 1, 5, 7, 9, 2, 1});         // pages of one token, odd bytes
    shapes.push_back({order, 32, 8, 4, 16, 0, 0, 4});        // no V plane
    shapes.push_back({order, 65, 5, 1, 260, 260, 0, 1});     // rows with a scale behind them
  }
  shapes.push_back({PageOrder::kLatent, 32, 16, 1, 1152, 0, 0, 3});
  shapes.push_back({PageOrder::kOpaque, 48, 16, 1, 4097, 0, 1, 2});
  shapes.push_back({PageOrder::kOpaque, 48, 16, 1, 333, 77, 0, 2});
  return shapes;
}

TEST(BlockCopyTest, GatherPutsEveryByteWhereTheFormatSays) {
  for (size_t i = 0; i < Shapes().size(); ++i) {
    const BlockShape shape = Shapes()[i];
    SCOPED_TRACE(i);
    TestCache cache(shape, shape.layer_first + shape.layer_count + 1, shape.page_count() + 7, i % 3 * 13, i);
    const auto pages = RandomPages(shape.page_count(), cache.cache.page_count, i);
    std::vector<std::byte> block(shape.block_bytes() + 1, kUntouched);
    ASSERT_TRUE(Gather(shape, cache.cache, pages, {block.data(), shape.block_bytes()}).ok());
    ForEachByte(shape, cache.cache, pages, [&](std::byte& byte, size_t at) { ASSERT_EQ(block[at], byte) << at; });
    EXPECT_EQ(block.back(), kUntouched);
  }
}

TEST(BlockCopyTest, ScatterIsTheInverseAndLeavesAllOtherBytesAlone) {
  for (size_t i = 0; i < Shapes().size(); ++i) {
    const BlockShape shape = Shapes()[i];
    SCOPED_TRACE(i);
    TestCache cache(shape, shape.layer_first + shape.layer_count + 1, shape.page_count() + 7, i % 3 * 13, i);
    const auto pages = RandomPages(shape.page_count(), cache.cache.page_count, i + 100);
    std::vector<std::byte> block(shape.block_bytes());
    std::mt19937 random(static_cast<uint32_t>(i));
    for (std::byte& byte : block) byte = static_cast<std::byte>(random());
    const auto expected = cache.planes;
    ASSERT_TRUE(Scatter(shape, cache.cache, pages, block).ok());
    const auto written = cache.planes;
    // Replay the reference on the bytes from before, then compare the whole cache.
    for (size_t p = 0; p < expected.size(); ++p) std::ranges::copy(expected[p], cache.planes[p].begin());
    ForEachByte(shape, cache.cache, pages, [&](std::byte& byte, size_t at) { byte = block[at]; });
    EXPECT_TRUE(written == cache.planes);
    std::vector<std::byte> again(block.size());
    ASSERT_TRUE(Gather(shape, cache.cache, pages, again).ok());
    EXPECT_TRUE(again == block);
  }
}

TEST(BlockCopyTest, BlocksOfNhdAndHndEnginesAreInterchangeable) {
  BlockShape nhd = {PageOrder::kNhd, 64, 16, 4, 32, 32, 0, 2};
  BlockShape hnd = {PageOrder::kHnd, 64, 32, 4, 32, 32, 0, 2};  // other pages, too
  TestCache from(nhd, 2, 9, 0, 1);
  TestCache to(hnd, 2, 9, 5, 2);
  std::vector<std::byte> block(nhd.block_bytes()), back(hnd.block_bytes());
  ASSERT_TRUE(Gather(nhd, from.cache, std::vector<uint32_t>{8, 0, 3, 5}, block).ok());
  ASSERT_TRUE(Scatter(hnd, to.cache, std::vector<uint32_t>{6, 2}, block).ok());
  ASSERT_TRUE(Gather(hnd, to.cache, std::vector<uint32_t>{6, 2}, back).ok());
  EXPECT_TRUE(back == block);
}

TEST(BlockCopyTest, LayerByLayerIsTheSameAsAllAtOnce) {
  const BlockShape shape = {PageOrder::kHnd, 64, 16, 4, 32, 16, 0, 3};
  TestCache from(shape, 3, 9, 0, 1);
  TestCache to(shape, 3, 9, 0, 2), at_once(shape, 3, 9, 0, 2);
  const std::vector<uint32_t> pages = {8, 0, 3, 5};
  std::vector<std::byte> block(shape.block_bytes()), by_layer(block.size());
  ASSERT_TRUE(Gather(shape, from.cache, pages, block).ok());
  ASSERT_TRUE(Scatter(shape, at_once.cache, pages, block).ok());
  BlockShape layer = shape;
  layer.layer_count = 1;
  for (; layer.layer_first < 3; ++layer.layer_first) {
    const std::span<std::byte> share =
        std::span(by_layer).subspan(layer.layer_first * layer.block_bytes(), layer.block_bytes());
    ASSERT_TRUE(Gather(layer, from.cache, pages, share).ok());
    ASSERT_TRUE(Scatter(layer, to.cache, pages, share).ok());
  }
  EXPECT_TRUE(by_layer == block);
  EXPECT_TRUE(to.planes == at_once.planes);
}

TEST(BlockCopyTest, ShapeOfALayoutHasTheLayoutsBytes) {
  KvLayout gqa = {.layers = 32, .kv_heads = 8, .head_dim = 128, .value_dim = 128, .dtype = KvDtype::kBf16};
  const auto shape = ShapeOf(gqa, 2, PageOrder::kNhd, 64, 16);
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->block_bytes(), gqa.part_bytes(64, 32, 2));
  EXPECT_EQ(shape->key_bytes, 256u);
  gqa.dtype = KvDtype::kInt8;
  gqa.scales = ScaleScheme::kPerTokenHead;
  EXPECT_EQ(ShapeOf(gqa, 8, PageOrder::kHnd, 64, 16)->block_bytes(), gqa.block_bytes(64));
  const KvLayout mla = {.layers = 61, .latent_dim = 512, .rope_dim = 64, .dtype = KvDtype::kBf16};
  EXPECT_EQ(ShapeOf(mla, 0, PageOrder::kLatent, 64, 64)->block_bytes(), mla.block_bytes(64));
}

TEST(BlockCopyTest, LayoutThatDoesNotFitTheOrderIsRefused) {
  KvLayout layout = {.layers = 1, .kv_heads = 2, .head_dim = 7, .value_dim = 8, .dtype = KvDtype::kInt4};
  EXPECT_THAT(ShapeOf(layout, 2, PageOrder::kNhd, 16, 16).status().message(), HasSubstr("rows of 28 (K)"));
  layout.head_dim = 8;
  EXPECT_THAT(ShapeOf(layout, 3, PageOrder::kNhd, 16, 16).status().message(), HasSubstr("heads is 3"));
  EXPECT_THAT(ShapeOf(layout, 2, PageOrder::kLatent, 16, 16).status().message(), HasSubstr("2 KV heads"));
  EXPECT_FALSE(ShapeOf(layout, 2, PageOrder::kOpaque, 16, 16).ok());
  EXPECT_TRUE(ShapeOf(layout, 2, PageOrder::kNhd, 16, 16).ok());
}

struct Refusal {
  const char* message;
  void (*spoil)(BlockShape& shape);
};

TEST(BlockCopyTest, ShapesThatAreNoneAreRefusedWithTheValue) {
  const Refusal refusals[] = {
      {"layer_count is 0", [](BlockShape& s) { s.layer_count = 0; }},
      {"page_tokens is 0", [](BlockShape& s) { s.page_tokens = 0; }},
      {"block_tokens is 0", [](BlockShape& s) { s.block_tokens = 0; }},
      {"block_tokens is 63; it must be a multiple of page_tokens 16", [](BlockShape& s) { s.block_tokens = 63; }},
      {"heads is 0", [](BlockShape& s) { s.heads = 0; }},
      {"key_bytes is 0", [](BlockShape& s) { s.key_bytes = 0; }},
      {"a block of 1025 pages", [](BlockShape& s) { s.block_tokens = 1025 * 16; }},
      {"heads is 4; latent pages have 1", [](BlockShape& s) { s.order = PageOrder::kLatent; }},
      {"value_bytes is 32; latent",
       [](BlockShape& s) {
         s.order = PageOrder::kLatent;
         s.heads = 1;
       }},
      {"heads 2..4 of a block; it has 4", [](BlockShape& s) { s.slice = {.block_first = 2, .count = 3}; }},
      {"a slice of 0 heads from 2", [](BlockShape& s) { s.slice = {.block_first = 2}; }},
      {"a block of 1099511644160 bytes; at most 1073741824", [](BlockShape& s) { s.key_bytes = 1ULL << 31; }},
      {"a block of 2^64 or more bytes", [](BlockShape& s) { s.key_bytes = UINT64_MAX; }},
      {"a block of 2^64 or more bytes", [](BlockShape& s) { s.heads = s.layer_count = UINT32_MAX; }},
  };
  for (const Refusal& refusal : refusals) {
    BlockShape shape = {PageOrder::kNhd, 64, 16, 4, 32, 32, 0, 2};
    ASSERT_TRUE(CheckShape(shape).ok());
    refusal.spoil(shape);
    const absl::Status status = CheckShape(shape);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << refusal.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(refusal.message));
    EXPECT_EQ(Gather(shape, {}, std::span<const uint32_t>{}, std::span<std::byte>{}), status);
  }
}

class BlockCopyRefusalTest : public ::testing::Test {
 protected:
  // Both directions must refuse with `message` and leave every byte as it was.
  void ExpectRefused(const std::vector<uint32_t>& pages, std::span<std::byte> block, const std::string& message) {
    const auto before = cache_.planes;
    const std::vector<std::byte> block_before(block.begin(), block.end());
    for (const absl::Status& status :
         {Gather(shape_, cache_.cache, pages, block), Scatter(shape_, cache_.cache, pages, block)}) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << message;
      EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    }
    EXPECT_TRUE(before == cache_.planes);
    EXPECT_TRUE(std::equal(block.begin(), block.end(), block_before.begin()));
  }

  BlockShape shape_ = {PageOrder::kNhd, 64, 16, 4, 32, 32, 0, 2};
  TestCache cache_{shape_, 2, 9, 0, 1};
  std::vector<std::byte> block_ = std::vector<std::byte>(shape_.block_bytes(), kUntouched);
};

TEST_F(BlockCopyRefusalTest, PagesTheCacheDoesNotHave) {
  ExpectRefused({0, 1, 2}, block_, "the page table has 3 pages; a block of 64 tokens needs 4");
  ExpectRefused({0, 1, 9, 2}, block_, "page 9 at 2; the cache has 9 pages");
  ExpectRefused({0, 1, 2, 1}, block_, "page 1 is listed twice, again at 3");
}

TEST_F(BlockCopyRefusalTest, LayersTheCacheDoesNotHave) {
  shape_.layer_first = 1;
  ExpectRefused({0, 1, 2, 3}, block_, "layers 1..2; the cache has 2");
  shape_.layer_first = UINT32_MAX;
  ExpectRefused({0, 1, 2, 3}, block_, "the cache has 2");
}

TEST_F(BlockCopyRefusalTest, BlockOfAnotherSize) {
  ExpectRefused({0, 1, 2, 3}, std::span(block_).first(block_.size() - 1), "the block has 32767 bytes");
}

TEST_F(BlockCopyRefusalTest, NullPlane) {
  cache_.bases[1].values = nullptr;
  ExpectRefused({0, 1, 2, 3}, block_, "the V pages of layer 1 are null");
}

TEST_F(BlockCopyRefusalTest, StrideSmallerThanAPage) {
  cache_.cache.page_stride_bytes = 2047;
  ExpectRefused({0, 1, 2, 3}, block_, "page_stride_bytes is 2047; a page has 2048");
  cache_.cache.page_stride_bytes = UINT64_MAX / 2;
  ExpectRefused({0, 1, 2, 3}, block_, "more than an address space");
}

TEST_F(BlockCopyRefusalTest, HeadsThatThePageDoesNotHave) {
  cache_.cache.page_heads = 2;
  ExpectRefused({0, 1, 2, 3}, block_, "a page has 2 heads and the block 4; a slice says which to copy");
  shape_.slice = {.page_first = 1, .count = 2};
  ExpectRefused({0, 1, 2, 3}, block_, "heads 1..2 of a page; it has 2");
}

TEST_F(BlockCopyRefusalTest, RowsThatOverlap) {
  cache_.cache.row_stride_bytes[1] = 31;
  ExpectRefused({0, 1, 2, 3}, block_, "row_stride_bytes of V is 31; a row has 32");
  cache_.cache.row_stride_bytes[1] = 40;
  ExpectRefused({0, 1, 2, 3}, block_, "page_stride_bytes is 2048; a page has 2552");
}

TEST_F(BlockCopyRefusalTest, BatchesThatAreNone) {
  EXPECT_THAT(Gather(shape_, cache_.cache, std::span<const BlockDestination>{}).message(), HasSubstr("0 blocks"));
  const std::vector<uint32_t> pages = {0, 1, 2, 3}, others = {4, 5, 6, 3};
  std::vector<std::byte> second(block_.size());
  const std::vector<BlockSource> sources = {{pages, block_}, {others, second}};
  EXPECT_THAT(Scatter(shape_, cache_.cache, sources).message(), HasSubstr("page 3 is listed twice, again at 3 of block 1"));
  const std::vector<BlockDestination> apart = {{pages, block_}, {others, second}};
  EXPECT_TRUE(Gather(shape_, cache_.cache, apart).ok()) << "two blocks may begin with the same page";
  const std::vector<BlockDestination> same = {{pages, block_}, {others, block_}};
  EXPECT_THAT(Gather(shape_, cache_.cache, same).message(), HasSubstr("blocks 0 and 1 of the batch overlap"));
  const std::vector<BlockDestination> many(kBatchBlocksMax + 1, apart[0]);
  EXPECT_THAT(Gather(shape_, cache_.cache, many).message(), HasSubstr("a batch of 1025 blocks"));
  const std::vector<uint32_t> by_layer = {0, 1, 2, 3, 4, 5, 6, 7};
  const std::vector<BlockDestination> mixed = {{by_layer, block_}, {others, second}};
  EXPECT_THAT(Gather(shape_, cache_.cache, mixed).message(), HasSubstr("needs 4 in each layer"));
}

TEST_F(BlockCopyRefusalTest, DigestsThatDoNotFit) {
  const std::vector<uint32_t> pages = {0, 1, 2, 3};
  const std::vector<BlockDestination> blocks = {{pages, block_}};
  EXPECT_THAT(GatherAndDigest(shape_, cache_.cache, blocks, {}).message(), HasSubstr("1 blocks with 0 digests"));
  std::vector<uint64_t> hashes(7);
  std::vector<BlockDigest> digests = {{{}, hashes}};
  EXPECT_THAT(GatherAndDigest(shape_, cache_.cache, blocks, digests).message(), HasSubstr("7 chunk hashes; a block of"));
  hashes.resize(8);
  digests[0].chunk_hashes = hashes;
  shape_.slice.count = 2;
  EXPECT_THAT(GatherAndDigest(shape_, cache_.cache, blocks, digests).message(), HasSubstr("a gather of 2 of 4 heads"));
  EXPECT_TRUE(std::ranges::count(block_, kUntouched) == static_cast<ptrdiff_t>(block_.size()));
}

TEST_F(BlockCopyRefusalTest, BlockThatOverlapsOnePageByOneByte) {
  std::vector<std::byte> memory(block_.size() + cache_.stride * 9, kUntouched);
  cache_.bases[1].keys = &memory[block_.size() - 1 - 3 * cache_.stride];
  const std::span<std::byte> block = std::span(memory).first(block_.size());
  ExpectRefused({4, 5, 3, 6}, block, "the block overlaps K page 3 of layer 1");
  // The same page table one byte further is fine.
  cache_.bases[1].keys += 1;
  EXPECT_TRUE(Gather(shape_, cache_.cache, std::vector<uint32_t>{4, 5, 3, 6}, block).ok());
}

}  // namespace
}  // namespace stem
