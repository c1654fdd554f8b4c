// Gather and scatter of any shape against the scalar reference: batches, page tables per layer, slices of heads, rows
// apart, digests, and the GPU's index arithmetic run thread by thread on the host.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/block_copy.h"
#include "kernels/copy_index.h"
#include "kernels/plan_copy.h"
#include "tests/support/scalar_copy.h"

namespace stem {
namespace {

constexpr uint32_t kSeed = 20261125;
constexpr int kRounds = 80;

class Case {
 public:
  explicit Case(uint32_t seed) : random_(seed) {
    shape.order = Pick({PageOrder::kNhd, PageOrder::kHnd, PageOrder::kLatent, PageOrder::kOpaque});
    shape.page_tokens = Pick({1u, 2u, 3u, 8u, 11u, 16u, 31u, 32u, 33u, 64u});
    shape.block_tokens = shape.page_tokens * Pick({1u, 1u, 2u, 3u, 5u});
    shape.heads = shape.order == PageOrder::kLatent ? 1 : Pick({1u, 2u, 3u, 4u, 8u});
    shape.key_bytes = Pick({1u, 7u, 16u, 20u, 64u, 96u, 128u, 132u, 256u});
    shape.value_bytes = shape.order == PageOrder::kLatent ? 0 : Pick({0u, 9u, 16u, 64u, 128u, 256u});
    shape.layer_first = Pick({0u, 0u, 1u, 2u});
    shape.layer_count = Pick({1u, 2u, 3u});
    cache.page_heads = shape.heads;
    if (shape.heads > 1 && Pick({true, false})) Slice();
    for (int plane = 0; plane < 2; ++plane) {
      const uint64_t row = plane == 0 ? shape.key_bytes : shape.value_bytes;
      cache.row_stride_bytes[plane] = Pick({0u, 0u, 1u}) * (row + Pick({0u, 4u, 64u, 128u}));
      const uint64_t stride = std::max(cache.row_stride_bytes[plane], row);
      cache.page_stride_bytes = std::max(cache.page_stride_bytes, stride * shape.page_rows() * cache.page_heads);
    }
    cache.page_stride_bytes += Pick({0u, 0u, 1u, 64u});
    items = Pick({1u, 1u, 2u, 5u});
    cache.page_count = shape.page_count() * items + Pick({0u, 3u});
    const uint32_t layers = shape.layer_first + shape.layer_count + Pick({0u, 1u});
    for (uint32_t i = 0; i < 2 * layers; ++i) planes.push_back(Bytes(cache.page_stride_bytes * cache.page_count + 1));
    shift = Pick({0u, 0u, 1u});
    for (uint32_t i = 0; i < layers; ++i) {
      bases.push_back({&planes[2 * i][shift], shape.value_bytes == 0 ? nullptr : &planes[2 * i + 1][shift]});
    }
    cache.layers = bases;
    Tables();
    memory = Bytes(shape.block_bytes() * items + 1);
  }
  Case(const Case&) = delete;

  std::vector<BlockDestination> Destinations() {
    std::vector<BlockDestination> blocks;
    for (uint32_t i = 0; i < items; ++i) blocks.push_back({tables[i], Block(i)});
    return blocks;
  }
  std::vector<BlockSource> Sources() {
    std::vector<BlockSource> blocks;
    for (uint32_t i = 0; i < items; ++i) blocks.push_back({tables[i], Block(i)});
    return blocks;
  }
  std::span<std::byte> Block(uint32_t i) {
    return std::span(memory).subspan(shift + i * shape.block_bytes(), shape.block_bytes());
  }

  BlockShape shape;
  PagedCache cache;
  uint32_t items = 0;
  uint32_t shift = 0;
  std::vector<std::vector<std::byte>> planes;
  std::vector<LayerPages> bases;
  std::vector<std::vector<uint32_t>> tables;
  std::vector<std::byte> memory;

 private:
  uint32_t Random() { return static_cast<uint32_t>(random_()); }

  template <typename T>
  T Pick(std::initializer_list<T> choices) {
    return std::data(choices)[random_() % choices.size()];
  }

  std::vector<std::byte> Bytes(size_t count) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  void Slice() {
    cache.page_heads = Pick({1u, 2u, 4u, 6u});
    shape.slice.count = 1 + Random() % std::min(shape.heads, cache.page_heads);
    shape.slice.page_first = Random() % (cache.page_heads - shape.slice.count + 1);
    shape.slice.block_first = Random() % (shape.heads - shape.slice.count + 1);
  }

  void Tables() {
    const uint32_t in_layers = Pick({1u, shape.layer_count});
    tables.resize(items);
    for (uint32_t layer = 0; layer < in_layers; ++layer) {
      std::vector<uint32_t> order(cache.page_count);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random_);
      for (uint32_t i = 0; i < items; ++i) {
        const auto first = order.begin() + i * shape.page_count();
        tables[i].insert(tables[i].end(), first, first + shape.page_count());
      }
    }
  }

  std::mt19937 random_;
};

CopyPlan PlanOf(Case& c, CopyDirection direction, CopyItem* items) {
  const uint64_t bytes = c.shape.block_bytes();
  absl::StatusOr<CopyPlan> plan =
      direction == CopyDirection::kGather
          ? block_copy_internal::PlanCopy(c.shape, c.cache, std::span<const BlockDestination>(c.Destinations()), bytes,
                                          items)
          : block_copy_internal::PlanCopy(c.shape, c.cache, std::span<const BlockSource>(c.Sources()), bytes, items);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return *plan;
}

// What the reference makes of the case: all memory afterwards.
struct After {
  std::vector<std::byte> memory;
  std::vector<std::vector<std::byte>> planes;
};

After Reference(uint32_t seed, CopyDirection direction) {
  Case c(seed);
  CopyItem items[kBatchBlocksMax];
  RunScalar(PlanOf(c, direction, items));
  return {c.memory, c.planes};
}

void ExpectSame(const Case& c, const After& after, const char* what) {
  EXPECT_TRUE(c.memory == after.memory) << what;
  EXPECT_TRUE(c.planes == after.planes) << what;
}

void ExpectDigests(Case& c, const std::vector<BlockDigest>& digests) {
  for (uint32_t i = 0; i < c.items; ++i) {
    std::vector<uint64_t> hashes(ChunkCount(c.shape.block_bytes()));
    EXPECT_EQ(digests[i].digest, Digest(digests[i].name, c.Block(i), hashes));
    EXPECT_TRUE(std::ranges::equal(digests[i].chunk_hashes, hashes));
  }
}

class BlockCopyPropertyTest : public ::testing::TestWithParam<CopyDirection> {};

TEST_P(BlockCopyPropertyTest, AnyBatchIsCopiedAsTheReferenceCopiesIt) {
  const bool gather = GetParam() == CopyDirection::kGather;
  for (uint32_t seed = kSeed; seed < kSeed + kRounds; ++seed) {
    SCOPED_TRACE(seed);
    Case c(seed);
    const After after = Reference(seed, GetParam());
    const absl::Status status =
        gather ? Gather(c.shape, c.cache, c.Destinations()) : Scatter(c.shape, c.cache, c.Sources());
    ASSERT_TRUE(status.ok()) << status;
    ExpectSame(c, after, "copied");
    if (HasFailure()) return;
  }
}

TEST_P(BlockCopyPropertyTest, DigestTakenOnTheWayIsThatOfTheBlock) {
  const bool gather = GetParam() == CopyDirection::kGather;
  int digested = 0;
  for (uint32_t seed = kSeed; seed < kSeed + kRounds; ++seed) {
    SCOPED_TRACE(seed);
    Case c(seed);
    std::vector<std::vector<uint64_t>> hashes(c.items, std::vector<uint64_t>(ChunkCount(c.shape.block_bytes())));
    std::vector<BlockDigest> digests(c.items);
    for (uint32_t i = 0; i < c.items; ++i) digests[i] = {{{{seed, i}}, {{3, 4}}}, hashes[i]};
    const absl::Status status = gather ? GatherAndDigest(c.shape, c.cache, c.Destinations(), digests)
                                       : ScatterAndDigest(c.shape, c.cache, c.Sources(), digests);
    if (gather && c.shape.slice.count != 0 && c.shape.slice.count != c.shape.heads) {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(status.ok()) << status;
    ++digested;
    ExpectSame(c, Reference(seed, GetParam()), "copied and digested");
    ExpectDigests(c, digests);
    if (HasFailure()) return;
  }
  EXPECT_GT(digested, kRounds / 2);
}

// What the GPU's threads do, one after another: every word once, at the places that the reference names.
TEST_P(BlockCopyPropertyTest, GpuIndexesCoverTheReference) {
  for (uint32_t seed = kSeed; seed < kSeed + kRounds; ++seed) {
    SCOPED_TRACE(seed);
    Case c(seed);
    const After after = Reference(seed, GetParam());
    CopyItem items[kBatchBlocksMax];
    const CopyPlan plan = PlanOf(c, GetParam(), items);
    const bool whole = seed % 2 == 0;
    const CopyIndex index = CopyIndex::Of(plan, WordBytes(plan), whole);
    for (uint32_t i = 0; i < plan.item_count; ++i) {
      for (uint32_t word = 0; word < plan.layer_count * index.layer_words; ++word) {
        const CopyIndex::Place place = index.Locate(word);
        ASSERT_TRUE(place.copied || whole);
        ASSERT_TRUE(!whole || place.block_bytes == uint64_t{word} * index.word_bytes) << word;
        if (!place.copied) continue;
        const LayerPages& layer = plan.layers[place.layer];
        std::byte* const page = (place.values ? layer.values : layer.keys) +
                                plan.items[i].pages[place.table] * plan.page_stride_bytes + place.page_bytes;
        std::byte* const block = plan.items[i].block + place.block_bytes;
        const bool gather = GetParam() == CopyDirection::kGather;
        std::memcpy(gather ? block : page, gather ? page : block, index.word_bytes);
      }
    }
    ExpectSame(c, after, "by index");
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Both, BlockCopyPropertyTest,
                         ::testing::Values(CopyDirection::kGather, CopyDirection::kScatter),
                         [](const auto& test) { return test.param == CopyDirection::kGather ? "Gather" : "Scatter"; });

TEST(DividerTest, QuotientsOfAllSizesAreExact) {
  std::mt19937 generator(kSeed);
  const auto random = [&] { return static_cast<uint32_t>(generator()); };
  for (int i = 0; i < 500'000; ++i) {
    const uint32_t divisor = 1 + (random() >> 2 >> random() % 30);
    const uint32_t number = random() >> 1 >> random() % 31;
    ASSERT_EQ(Divider::Of(divisor).Quotient(number), number / divisor) << number << " / " << divisor;
  }
  for (uint32_t divisor : {1u, 2u, 3u, 7u, 641u, 65535u, 65536u, (1u << 30) - 1, 1u << 30}) {
    for (uint32_t number : {0u, 1u, divisor - 1, divisor, divisor + 1, (1u << 31) - 1}) {
      ASSERT_EQ(Divider::Of(divisor).Quotient(number), number / divisor) << number << " / " << divisor;
    }
  }
}

}  // namespace
}  // namespace stem
