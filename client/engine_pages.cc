#include "client/engine_pages.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace stem {

uint64_t EnginePages::block_bytes(const EnginePart& part) const {
  uint64_t bytes = 0;
  for (const EnginePlane& plane : part.planes) bytes += plane.page_bytes * pages_per_block[plane.table];
  return bytes;
}

uint64_t EnginePages::block_bytes_max() const {
  uint64_t bytes = 0;
  for (const EnginePart& part : parts) bytes = std::max(bytes, block_bytes(part));
  return bytes;
}

uint32_t EnginePages::pages_of_all_tables() const { return std::reduce(pages_per_block.begin(), pages_per_block.end()); }

std::vector<uint32_t> EnginePages::part_ids() const {
  std::vector<uint32_t> ids;
  for (const EnginePart& part : parts) ids.push_back(part.id);
  return ids;
}

namespace {

absl::Status CheckPart(const EnginePages& pages, const EnginePart& engine, const NamespaceSpec& space) {
  const Part* part = space.part(engine.id);
  if (part == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("part ", engine.id, " is not one of the namespace's"));
  }
  for (size_t i = 0; i < engine.planes.size(); ++i) {
    const EnginePlane& plane = engine.planes[i];
    if (plane.table >= pages.pages_per_block.size()) {
      return absl::InvalidArgumentError(absl::StrCat("plane ", i, " is of block table ", plane.table, "; there are ", pages.pages_per_block.size()));
    }
    if (plane.base != nullptr && plane.page_bytes > 0 && plane.stride_bytes >= plane.page_bytes) continue;
    return absl::InvalidArgumentError(absl::StrCat("plane ", i, " has pages of ", plane.page_bytes, " bytes at a stride of ",
                                                   plane.stride_bytes, (plane.base == nullptr ? " and no address" : ""),
                                                   "; a page has at least a byte, and fits its stride"));
  }
  if (pages.block_bytes(engine) != part->block_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the pages of a block hold ", pages.block_bytes(engine), " bytes; part ",
                                                   engine.id, " of the namespace has ", part->block_bytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckPages(const EnginePages& pages, const NamespaceSpec& space) {
  if (pages.page_count == 0 || pages.pages_per_block.empty() || std::ranges::count(pages.pages_per_block, 0u) > 0) {
    return absl::InvalidArgumentError(absl::StrCat("pages_per_block is ", absl::StrJoin(pages.pages_per_block, "+"), ", page_count ",
                                                   pages.page_count, "; each must be at least 1"));
  }
  if (pages.parts.empty()) return absl::InvalidArgumentError("there are no parts");
  for (size_t i = 0; i < pages.parts.size(); ++i) {
    if (i > 0 && pages.parts[i].id <= pages.parts[i - 1].id) return absl::InvalidArgumentError("part ids must ascend");
    STEM_TRY(CheckPart(pages, pages.parts[i], space));
  }
  return absl::OkStatus();
}

std::span<const int32_t> BlockPages::of(uint32_t table) const {
  size_t before = 0;
  for (uint32_t i = 0; i < table; ++i) before += engine_.pages_per_block[i] * blocks_;
  const uint32_t pages = engine_.pages_per_block[table];
  return ids_.subspan(before + at_ * pages, pages);
}

uint64_t BlockPages::bytes(const EnginePart& part) const {
  uint64_t bytes = 0;
  for (const EnginePlane& plane : part.planes) {
    const std::span<const int32_t> pages = of(plane.table);
    bytes += plane.page_bytes * (pages.size() - static_cast<size_t>(std::ranges::count(pages, kNoPage)));
  }
  return bytes;
}

std::vector<PayloadRange> RangesOf(const EnginePart& part, const BlockPages& block) {
  std::vector<PayloadRange> ranges;
  uint64_t offset = 0;
  for (const EnginePlane& plane : part.planes) {
    for (const int32_t page : block.of(plane.table)) {
      if (page != kNoPage) {
        ranges.push_back({.offset = offset, .destination = {plane.base + static_cast<uint64_t>(page) * plane.stride_bytes, plane.page_bytes}});
      }
      offset += plane.page_bytes;
    }
  }
  return ranges;
}

}  // namespace stem
