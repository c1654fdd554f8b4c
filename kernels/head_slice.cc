#include "kernels/head_slice.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "proto/status.h"

namespace stem {
namespace {

constexpr uint32_t kPartsMax = 64;

template <typename... Items>
absl::Status Invalid(const Items&... items) {
  return absl::InvalidArgumentError(absl::StrCat(items...));
}

// Every (layer, head) of `pages` is in exactly one part.
absl::Status CheckCovered(const BlockShape& pages, HeadRange heads, std::span<const Part> parts) {
  for (uint32_t layer = pages.layer_first; layer < pages.layer_first + pages.layer_count; ++layer) {
    for (uint32_t head = heads.first; head < heads.first + heads.count; ++head) {
      const auto holds = [&](const Part& part) {
        return layer >= part.layer_first && layer - part.layer_first < part.layer_count && head >= part.head_first &&
               head - part.head_first < part.head_count;
      };
      const auto holders = std::ranges::count_if(parts, holds);
      if (holders != 1) return Invalid("head ", head, " of layer ", layer, " lies in ", holders, " parts; it must be 1");
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<HeadRange> HeadsOfRank(uint32_t kv_heads, uint32_t degree, uint32_t rank) {
  if (kv_heads == 0 || degree == 0) return Invalid(kv_heads, " KV heads on ", degree, " ranks; both are at least 1");
  if (rank >= degree) return Invalid("rank ", rank, " of a degree of ", degree);
  if (kv_heads % degree != 0 && degree % kv_heads != 0) {
    return Invalid(kv_heads, " KV heads on ", degree, " ranks; one must be a multiple of the other");
  }
  if (degree > kv_heads) return HeadRange{rank / (degree / kv_heads), 1};
  return HeadRange{rank * (kv_heads / degree), kv_heads / degree};
}

absl::StatusOr<bool> PublishesHeads(uint32_t kv_heads, uint32_t degree, uint32_t rank) {
  STEM_TRY(HeadsOfRank(kv_heads, degree, rank).status());
  return degree <= kv_heads || rank % (degree / kv_heads) == 0;
}

absl::StatusOr<std::vector<Part>> HeadParts(const KvLayout& layout, uint32_t degree, uint32_t block_tokens) {
  if (layout.latent()) {
    return std::vector<Part>{{.layer_count = layout.layers, .block_bytes = layout.block_bytes(block_tokens)}};
  }
  const uint32_t count = std::min(degree, layout.kv_heads);
  STEM_ASSIGN(const HeadRange first, HeadsOfRank(layout.kv_heads, degree, 0));
  if (count > kPartsMax) return Invalid(count, " parts; a namespace has at most ", kPartsMax);
  std::vector<Part> parts;
  for (uint32_t id = 0; id < count; ++id) {
    parts.push_back({.id = id,
                     .layer_count = layout.layers,
                     .head_first = id * first.count,
                     .head_count = first.count,
                     .block_bytes = layout.part_bytes(block_tokens, layout.layers, first.count)});
  }
  return parts;
}

absl::StatusOr<std::vector<PartCopy>> PlanParts(const BlockShape& pages, HeadRange heads, std::span<const Part> parts) {
  STEM_TRY(CheckShape(pages));
  if (pages.heads != heads.count || pages.slice != HeadSlice{}) {
    return Invalid("pages of ", pages.heads, " heads for a rank of ", heads.count, "; a shape of all its heads is asked");
  }
  STEM_TRY(CheckCovered(pages, heads, parts));
  std::vector<PartCopy> copies;
  for (const Part& part : parts) {
    const uint32_t first = std::max(heads.first, part.head_first);
    const uint32_t end = std::min(heads.first + heads.count, part.head_first + part.head_count);
    const uint32_t layer_end = part.layer_first + part.layer_count;
    if (first >= end || part.layer_first >= pages.layer_first + pages.layer_count || layer_end <= pages.layer_first) {
      continue;
    }
    if (part.layer_first < pages.layer_first || layer_end > pages.layer_first + pages.layer_count) {
      return Invalid("part ", part.id, " has layers ", part.layer_first, "..", layer_end - 1,
                     "; the pages have a share of them only");
    }
    PartCopy copy = {part.id, pages};
    copy.shape.heads = part.head_count;
    copy.shape.layer_first = part.layer_first - pages.layer_first;
    copy.shape.layer_count = part.layer_count;
    copy.shape.slice = {.page_first = first - heads.first, .block_first = first - part.head_first, .count = end - first};
    if (copy.shape.block_bytes() != part.block_bytes) {
      return Invalid("part ", part.id, " has blocks of ", part.block_bytes, " bytes; its heads and layers in this shape have ",
                     copy.shape.block_bytes());
    }
    copies.push_back(copy);
  }
  return copies;
}

}  // namespace stem
