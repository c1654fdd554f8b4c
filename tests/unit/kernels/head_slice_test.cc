// Every pair of tensor-parallel degrees: each rank of the reader gets exactly its heads, whoever published them.
#include "kernels/head_slice.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace stem {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kDegrees[] = {1, 2, 4, 8, 16, 32};

KvLayout Layout(uint32_t kv_heads) {
  return {.layers = 2, .kv_heads = kv_heads, .head_dim = 4, .value_dim = 2, .dtype = KvDtype::kBf16};
}

// Bytes that tell layer, plane, token, head and place.
std::byte Mark(uint64_t layer, uint64_t plane, uint64_t token, uint64_t head, uint64_t at) {
  return static_cast<std::byte>((((layer * 2 + plane) * 8 + token) * 8 + head) * 13 + at);
}

// A rank's pages: one page of 8 tokens in each plane, filled with what its heads have, or empty.
struct RankPages {
  RankPages(const BlockShape& shape, HeadRange heads, bool filled) {
    for (uint32_t layer = 0; layer < shape.layer_count; ++layer) {
      for (uint64_t plane = 0; plane < 2; ++plane) {
        const uint64_t row = plane == 0 ? shape.key_bytes : shape.value_bytes;
        planes.emplace_back(8 * heads.count * shape.key_bytes);
        for (uint64_t n = 0; filled && n < 8 * heads.count * row; ++n) {
          planes.back()[n] = Mark(layer, plane, n / row / heads.count, heads.first + n / row % heads.count, n % row);
        }
      }
    }
    for (uint32_t layer = 0; layer < shape.layer_count; ++layer) {
      layers.push_back({planes[2 * layer].data(), planes[2 * layer + 1].data()});
    }
    cache = {layers, 8 * heads.count * shape.key_bytes, 1, heads.count};
  }
  RankPages(const RankPages&) = delete;

  std::vector<std::vector<std::byte>> planes;
  std::vector<LayerPages> layers;
  PagedCache cache;
};

BlockShape PagesOf(const KvLayout& layout, uint32_t heads) { return *ShapeOf(layout, heads, PageOrder::kNhd, 8, 8); }

TEST(HeadSliceTest, AnyDegreeReadsWhatAnyDegreePublished) {
  const std::vector<uint32_t> pages = {0};
  int pairs = 0;
  for (const uint32_t kv_heads : {1u, 2u, 8u}) {
    const KvLayout layout = Layout(kv_heads);
    for (const uint32_t publishers : kDegrees) {
      const std::vector<Part> parts = *HeadParts(layout, publishers, 8);
      std::vector<std::vector<std::byte>> blocks;
      for (const Part& part : parts) blocks.emplace_back(part.block_bytes);
      for (uint32_t rank = 0; rank < publishers; ++rank) {
        if (!*PublishesHeads(kv_heads, publishers, rank)) continue;
        const HeadRange heads = *HeadsOfRank(kv_heads, publishers, rank);
        const RankPages from(PagesOf(layout, heads.count), heads, true);
        const auto copies = PlanParts(PagesOf(layout, heads.count), heads, parts);
        ASSERT_TRUE(copies.ok()) << copies.status();
        ASSERT_EQ(copies->size(), 1u);
        ASSERT_TRUE(Gather(copies->front().shape, from.cache, pages, blocks[copies->front().part]).ok());
      }
      for (const uint32_t readers : kDegrees) {
        for (uint32_t rank = 0; rank < readers; ++rank) {
          SCOPED_TRACE(::testing::Message() << kv_heads << " heads, " << publishers << " -> " << rank << "/" << readers);
          const HeadRange heads = *HeadsOfRank(kv_heads, readers, rank);
          const RankPages expected(PagesOf(layout, heads.count), heads, true), to(PagesOf(layout, heads.count), heads, false);
          const auto copies = PlanParts(PagesOf(layout, heads.count), heads, parts);
          ASSERT_TRUE(copies.ok()) << copies.status();
          for (const PartCopy& copy : *copies) {
            ASSERT_TRUE(Scatter(copy.shape, to.cache, pages, blocks[copy.part]).ok());
          }
          EXPECT_TRUE(to.planes == expected.planes);
        }
        ++pairs;
      }
    }
  }
  EXPECT_EQ(pairs, 3 * 36);
}

TEST(HeadSliceTest, ReplicatedHeadsArePublishedOnce) {
  for (uint32_t rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(*HeadsOfRank(2, 8, rank), (HeadRange{rank / 4, 1}));
    EXPECT_EQ(*PublishesHeads(2, 8, rank), rank % 4 == 0);
  }
  EXPECT_EQ(HeadParts(Layout(2), 8, 16)->size(), 2u);
}

TEST(HeadSliceTest, PipelineStagesReadTheirLayers) {
  const KvLayout layout = Layout(2);
  std::vector<Part> parts;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    parts.push_back({.id = layer, .layer_first = layer, .head_count = 2, .block_bytes = layout.part_bytes(8, 1, 2)});
  }
  BlockShape stage = PagesOf(layout, 1);
  stage.layer_first = stage.layer_count = 1;  // this rank's cache holds the model's layer 1 alone
  const auto copies = PlanParts(stage, {1, 1}, parts);
  ASSERT_TRUE(copies.ok()) << copies.status();
  ASSERT_EQ(copies->size(), 1u);
  EXPECT_EQ(copies->front().part, 1u);
  EXPECT_EQ(copies->front().shape.layer_first, 0u);
  EXPECT_EQ(copies->front().shape.slice, (HeadSlice{.page_first = 0, .block_first = 1, .count = 1}));
}

TEST(HeadSliceTest, WhatCannotBeCutIsRefused) {
  EXPECT_THAT(HeadsOfRank(6, 4, 0).status().message(), HasSubstr("6 KV heads on 4 ranks"));
  EXPECT_THAT(HeadsOfRank(8, 4, 4).status().message(), HasSubstr("rank 4 of a degree of 4"));
  EXPECT_FALSE(HeadsOfRank(0, 4, 0).ok());
  EXPECT_THAT(HeadParts(Layout(128), 128, 16).status().message(), HasSubstr("128 parts"));
  std::vector<Part> parts = *HeadParts(Layout(8), 2, 8);
  parts.pop_back();
  EXPECT_THAT(PlanParts(PagesOf(Layout(8), 8), {0, 8}, parts).status().message(),
              HasSubstr("head 4 of layer 0 lies in 0 parts"));
  parts.push_back(parts.front());
  EXPECT_THAT(PlanParts(PagesOf(Layout(8), 4), {0, 4}, parts).status().message(), HasSubstr("head 0 of layer 0 lies in 2"));
  parts.pop_back();
  parts[0].block_bytes += 1;
  EXPECT_THAT(PlanParts(PagesOf(Layout(8), 4), {0, 4}, parts).status().message(), HasSubstr("part 0 has blocks of"));
  EXPECT_THAT(PlanParts(PagesOf(Layout(8), 8), {0, 4}, parts).status().message(), HasSubstr("a rank of 4"));
}

}  // namespace
}  // namespace stem
