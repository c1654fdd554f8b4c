#include "kernels/retention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/plan_copy.h"
#include "proto/status.h"

namespace stem {
namespace {

using block_copy_internal::Invalid;

std::vector<uint32_t> FrontAndBack(uint32_t tokens, uint32_t front, uint32_t back) {
  front = std::min(front, tokens);
  back = std::min(back, tokens - front);
  std::vector<uint32_t> kept(front + back);
  std::iota(kept.begin(), kept.begin() + front, 0);
  std::iota(kept.begin() + front, kept.end(), tokens - back);
  return kept;
}

absl::Status CheckKept(std::span<const uint32_t> kept, uint64_t tokens) {
  for (size_t i = 0; i < kept.size(); ++i) {
    if (i > 0 && kept[i] <= kept[i - 1]) {
      return Invalid("kept token ", kept[i], " at ", i, " follows ", kept[i - 1], "; they must ascend");
    }
    if (kept[i] >= tokens) return Invalid("kept token ", kept[i], " at ", i, "; the pages hold ", tokens);
  }
  return absl::OkStatus();
}

// One row of one plane; kept tokens ascend, so a place is never read after it was written.
void MoveRows(const CopyPlan& plan, std::span<const uint32_t> kept, std::byte* base, int plane, uint32_t head_runs,
              uint64_t run_bytes) {
  const uint64_t page_row = plan.row_stride_bytes[plane];
  const uint64_t page_head = plan.head_major ? plan.page_rows * page_row : page_row;
  const uint64_t page_token = plan.head_major ? page_row : plan.page_heads * page_row;
  const uint32_t* const pages = plan.items[0].pages;
  const auto place = [&](uint32_t token) {
    return base + pages[token / plan.page_rows] * plan.page_stride_bytes + token % plan.page_rows * page_token;
  };
  for (uint32_t i = 0; i < kept.size(); ++i) {
    if (kept[i] == i) continue;
    std::byte* const to = place(i);
    const std::byte* const from = place(kept[i]);
    for (uint32_t head = 0; head < head_runs; ++head) {
      std::memcpy(to + head * page_head, from + head * page_head, run_bytes);
    }
  }
}

}  // namespace

std::vector<uint32_t> KeepWindow(uint32_t tokens, uint32_t window) { return FrontAndBack(tokens, 0, window); }

std::vector<uint32_t> KeepSinksAndWindow(uint32_t tokens, uint32_t sinks, uint32_t window) {
  return FrontAndBack(tokens, sinks, window);
}

std::vector<uint32_t> KeepHeavyHitters(std::span<const float> scores, uint32_t heavy, uint32_t window) {
  const auto tokens = static_cast<uint32_t>(scores.size());
  const uint32_t older = tokens - std::min(window, tokens);
  std::vector<uint32_t> kept(older);
  std::iota(kept.begin(), kept.end(), 0);
  const auto score = [&](uint32_t token) { return std::isnan(scores[token]) ? -INFINITY : scores[token]; };
  const auto heavier = [&](uint32_t a, uint32_t b) { return score(a) != score(b) ? score(a) > score(b) : a > b; };
  heavy = std::min(heavy, older);
  std::nth_element(kept.begin(), kept.begin() + heavy, kept.end(), heavier);
  kept.resize(heavy);
  std::ranges::sort(kept);
  for (uint32_t token = older; token < tokens; ++token) kept.push_back(token);
  return kept;
}

absl::StatusOr<CopyPlan> retention_internal::PlanCompaction(const BlockShape& shape, const PagedCache& cache,
                                                            std::span<const uint32_t> pages, size_t kept,
                                                            bool check_pages, CopyItem& item) {
  if (shape.order == PageOrder::kOpaque && shape.page_tokens != 1) {
    return Invalid("opaque pages of ", shape.page_tokens, " tokens cannot be compacted token by token");
  }
  if (shape.slice != HeadSlice{}) return Invalid("a slice of heads; tokens are kept with all their heads");
  if (kept == 0) return Invalid("no token is kept; there is at least 1");
  if (pages.empty()) return Invalid("the page table is empty");
  BlockShape sequence = shape;
  sequence.block_tokens = shape.page_tokens;
  STEM_TRY(CheckShape(sequence));
  if (kept > uint64_t{pages.size()} * shape.page_tokens) {
    return Invalid(kept, " kept tokens; ", pages.size(), " pages hold ", uint64_t{pages.size()} * shape.page_tokens);
  }
  return block_copy_internal::PlanSequence(sequence, cache, pages, check_pages, item);
}

absl::Status CompactTokens(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                           std::span<const uint32_t> kept) {
  CopyItem item;
  STEM_ASSIGN(const CopyPlan plan,
              retention_internal::PlanCompaction(shape, cache, pages, kept.size(), true, item));
  STEM_TRY(CheckKept(kept, uint64_t{pages.size()} * shape.page_tokens));
  for (uint32_t layer = 0; layer < plan.layer_count; ++layer) {
    for (int plane = 0; plane < 2; ++plane) {
      if (plan.row_bytes[plane] == 0) continue;
      const bool joined = plan.heads == 1 || (!plan.head_major && plan.row_stride_bytes[plane] == plan.row_bytes[plane]);
      MoveRows(plan, kept, plane == 0 ? plan.layers[layer].keys : plan.layers[layer].values, plane,
               joined ? 1 : plan.heads, joined ? plan.heads * plan.row_bytes[plane] : plan.row_bytes[plane]);
    }
  }
  return absl::OkStatus();
}

}  // namespace stem
