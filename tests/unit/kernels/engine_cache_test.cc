// Each named layout against a cache whose every byte tells its coordinates by the shape in the layout's own words.
#include "kernels/engine_cache.h"

#include <functional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kPages = 6, kTokens = 4, kHeads = 3, kLayers = 2;
constexpr uint32_t kRow = 8;  // bytes: 4 elements of bf16

// A byte that depends on all of its coordinates.
std::byte Mark(uint64_t layer, uint64_t plane, uint64_t page, uint64_t token, uint64_t head, uint64_t at) {
  return static_cast<std::byte>(((((layer * 2 + plane) * kPages + page) * kTokens + token) * kHeads + head) * kRow * 31 +
                                at * 7 + (page << 3));
}

// Index of a byte in tensor `tensor` by the words of PageLayout: each a product of strides, written out.
struct Where {
  size_t tensor;
  uint64_t at;
};
using Place = std::function<Where(uint64_t l, uint64_t kv, uint64_t p, uint64_t t, uint64_t h, uint64_t i)>;

constexpr uint64_t P = kPages, T = kTokens, H = kHeads, D = kRow, L = kLayers;

const std::pair<PageLayout, Place> kPlaces[] = {
    {PageLayout::kVllmSplit,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{l, (((kv * P + p) * T + t) * H + h) * D + i}; }},
    {PageLayout::kVllmNhd,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{l, (((p * 2 + kv) * T + t) * H + h) * D + i}; }},
    {PageLayout::kVllmHnd,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{l, (((p * 2 + kv) * H + h) * T + t) * D + i}; }},
    {PageLayout::kVllmLbnhc,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{l, (((p * T + t) * H + h) * 2 + kv) * D + i}; }},
    {PageLayout::kVllmLbhnc,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{l, (((p * H + h) * T + t) * 2 + kv) * D + i}; }},
    {PageLayout::kSglang,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) { return Where{kv * L + l, ((p * T + t) * H + h) * D + i}; }},
    {PageLayout::kTensorRtLlm,
     [](auto l, auto kv, auto p, auto t, auto h, auto i) {
       return Where{0, ((((p * L + l) * 2 + kv) * H + h) * T + t) * D + i};
     }},
};

EngineTensors Describe(PageLayout layout, std::vector<std::vector<std::byte>>& memory) {
  const size_t tensors = layout == PageLayout::kTensorRtLlm ? 1 : layout == PageLayout::kSglang ? 2 * L : L;
  memory.assign(tensors, std::vector<std::byte>(2 * L * P * T * H * D / tensors));
  EngineTensors in = {.layout = layout, .page_count = kPages, .page_tokens = kTokens, .heads = kHeads};
  in.kv = {.layers = kLayers, .kv_heads = 6, .head_dim = 4, .value_dim = 4, .dtype = KvDtype::kBf16};
  for (std::vector<std::byte>& tensor : memory) in.tensors.push_back(tensor.data());
  return in;
}

TEST(EngineCacheTest, EveryLayoutGathersToTheSameCanonicalBlock) {
  const std::vector<uint32_t> pages = {4, 1};
  for (const auto& [layout, place] : kPlaces) {
    SCOPED_TRACE(PageLayoutName(layout));
    std::vector<std::vector<std::byte>> memory;
    const absl::StatusOr<EngineCache> engine = EngineCache::Make(Describe(layout, memory));
    ASSERT_TRUE(engine.ok()) << engine.status();
    for (uint64_t l = 0; l < L; ++l) {
      for (uint64_t n = 0; n < 2 * P * T * H * D; ++n) {
        const uint64_t i = n % D, h = n / D % H, t = n / D / H % T, p = n / D / H / T % P, kv = n / D / H / T / P;
        const Where where = place(l, kv, p, t, h, i);
        memory[where.tensor][where.at] = Mark(l, kv, p, t, h, i);
      }
    }
    const BlockShape shape = engine->ShapeOf(2 * kTokens);
    std::vector<std::byte> block(shape.block_bytes());
    const absl::Status status = Gather(shape, engine->cache(), pages, block);
    ASSERT_TRUE(status.ok()) << status;
    size_t at = 0;
    for (uint64_t l = 0; l < L; ++l) {
      for (uint64_t kv = 0; kv < 2; ++kv) {
        for (uint64_t n = 0; n < 2 * T * H * D; ++n, ++at) {
          const uint64_t t = n / D / H;
          ASSERT_EQ(block[at], Mark(l, kv, pages[t / T], t % T, n / D % H, n % D)) << at;
        }
      }
    }
    const auto before = memory;
    ASSERT_TRUE(Scatter(shape, engine->cache(), std::vector<uint32_t>{4, 1}, block).ok());
    EXPECT_TRUE(memory == before) << "the inverse";
  }
}

TEST(EngineCacheTest, CpuPagesAreOpaqueWithinAHead) {
  std::vector<std::vector<std::byte>> memory;
  const absl::StatusOr<EngineCache> engine = EngineCache::Make(Describe(PageLayout::kVllmCpu, memory));
  ASSERT_TRUE(engine.ok()) << engine.status();
  for (size_t i = 0; i < memory[1].size(); ++i) memory[1][i] = static_cast<std::byte>(i * 5 + (i >> 8));
  BlockShape shape = engine->ShapeOf(kTokens);
  shape.layer_first = shape.layer_count = 1;
  std::vector<std::byte> block(shape.block_bytes());
  ASSERT_TRUE(Gather(shape, engine->cache(), std::vector<uint32_t>{3}, block).ok());
  for (uint64_t kv = 0, at = 0; kv < 2; ++kv) {
    for (uint64_t h = 0; h < H; ++h) {
      for (uint64_t i = 0; i < T * D; ++i, ++at) ASSERT_EQ(block[at], memory[1][((3 * H + h) * 2 + kv) * T * D + i]);
    }
  }
}

TEST(EngineCacheTest, LatentAndOpaquePagesHaveOnePlane) {
  std::vector<std::byte> memory(P * T * 12);
  for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 3);
  EngineTensors in = {.layout = PageLayout::kLatent, .tensors = {memory.data()}, .page_count = kPages, .page_tokens = kTokens};
  in.kv = {.layers = 1, .latent_dim = 4, .rope_dim = 2, .dtype = KvDtype::kBf16};
  std::vector<std::byte> block(2 * T * 12);
  const absl::StatusOr<EngineCache> latent = EngineCache::Make(in);
  ASSERT_TRUE(latent.ok()) << latent.status();
  EXPECT_EQ(latent->ShapeOf(2 * kTokens).block_bytes(), in.kv.block_bytes(2 * kTokens));
  ASSERT_TRUE(Gather(latent->ShapeOf(2 * kTokens), latent->cache(), std::vector<uint32_t>{5, 2}, block).ok());
  EXPECT_TRUE(std::equal(block.begin(), block.begin() + T * 12, &memory[5 * T * 12]));
  in.layout = PageLayout::kOpaque;
  in.page_bytes = T * 12;
  const absl::StatusOr<EngineCache> opaque = EngineCache::Make(in);
  ASSERT_TRUE(opaque.ok()) << opaque.status();
  std::vector<std::byte> same(block.size());
  ASSERT_TRUE(Gather(opaque->ShapeOf(2 * kTokens), opaque->cache(), std::vector<uint32_t>{5, 2}, same).ok());
  EXPECT_TRUE(same == block);
}

TEST(EngineCacheTest, NamesAreFoundAndUnknownOnesRefused) {
  for (int i = 0; i < kPageLayouts; ++i) {
    EXPECT_EQ(PageLayoutOf(kPageLayoutNames[i]).value(), static_cast<PageLayout>(i));
  }
  EXPECT_THAT(PageLayoutOf("nhd").status().message(), HasSubstr("no page layout is named 'nhd'; one of vllm_split"));
}

TEST(EngineCacheTest, TensorsThatDoNotFitAreRefused) {
  std::vector<std::vector<std::byte>> memory;
  const EngineTensors good = Describe(PageLayout::kSglang, memory);
  const auto refused = [](EngineTensors in, const char* message) {
    EXPECT_THAT(std::string(EngineCache::Make(in).status().message()), HasSubstr(message));
  };
  EngineTensors in = good;
  in.tensors.pop_back();
  refused(in, "3 tensors; sglang of 2 layers has 4");
  in = good;
  in.tensors[1] = nullptr;
  refused(in, "a tensor is null");
  in = good;
  in.heads = 7;
  refused(in, "heads is 7; the layout has 6");
  in = good;
  in.kv.value_dim = 2;
  refused(in, "rows of one width");
  in = good;
  in.page_tokens = 0;
  refused(in, "page_tokens 0");
  in = good;
  in.kv.scales = ScaleScheme::kPerTokenHead;
  refused(in, "the layout has scales");
  in = good;
  in.layout = PageLayout::kOpaque;
  in.tensors.resize(2);
  refused(in, "page_bytes is 0");
}

}  // namespace
}  // namespace stem
