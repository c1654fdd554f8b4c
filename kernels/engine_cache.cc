#include "kernels/engine_cache.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "proto/status.h"

namespace stem {
namespace {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

bool IsOpaque(PageLayout layout) { return layout == PageLayout::kOpaque; }

PageOrder OrderOf(PageLayout layout) {
  switch (layout) {
    case PageLayout::kVllmHnd:
    case PageLayout::kVllmLbhnc:
    case PageLayout::kTensorRtLlm: return PageOrder::kHnd;
    case PageLayout::kVllmCpu:
    case PageLayout::kOpaque: return PageOrder::kOpaque;
    case PageLayout::kLatent: return PageOrder::kLatent;
    default: return PageOrder::kNhd;
  }
}

absl::Status CheckTensors(const EngineTensors& in) {
  if (in.kv.layers == 0) return Invalid("layers is 0; a cache has at least 1");
  if (in.page_count == 0 || in.page_tokens == 0) {
    return Invalid("page_count is ", in.page_count, " and page_tokens ", in.page_tokens, "; both are at least 1");
  }
  const size_t expected = in.layout == PageLayout::kTensorRtLlm ? 1
                          : in.layout == PageLayout::kSglang    ? size_t{2} * in.kv.layers
                                                                : in.kv.layers;
  if (in.tensors.size() != expected) {
    return Invalid(in.tensors.size(), " tensors; ", PageLayoutName(in.layout), " of ", in.kv.layers, " layers has ",
                   expected);
  }
  if (std::ranges::count(in.tensors, nullptr) > 0) return Invalid("a tensor is null");
  return absl::OkStatus();
}

// Bytes of a K row and of a V row of one token and head.
absl::Status SetRows(const EngineTensors& in, BlockShape& shape) {
  if (IsOpaque(in.layout)) {
    if (in.page_bytes == 0) return Invalid("page_bytes is 0; an opaque page has at least 1");
    if (in.heads != 0) return Invalid("heads is ", in.heads, "; opaque pages have none that are known");
    shape.key_bytes = in.page_bytes;
    return absl::OkStatus();
  }
  if (in.kv.scales != ScaleScheme::kNone) {
    return Invalid("the layout has scales; ", PageLayoutName(in.layout), " keeps them apart from its pages");
  }
  const PageOrder order = in.layout == PageLayout::kLatent ? PageOrder::kLatent : PageOrder::kNhd;
  STEM_ASSIGN(const BlockShape rows, ShapeOf(in.kv, in.heads, order, in.page_tokens, in.page_tokens));
  shape.heads = rows.heads;
  shape.key_bytes = rows.key_bytes;
  shape.value_bytes = rows.value_bytes;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<PageLayout> PageLayoutOf(absl::string_view name) {
  for (int i = 0; i < kPageLayouts; ++i) {
    if (name == kPageLayoutNames[i]) return static_cast<PageLayout>(i);
  }
  return Invalid("no page layout is named '", name, "'; one of ", absl::StrJoin(kPageLayoutNames, ", "));
}

absl::StatusOr<EngineCache> EngineCache::Make(const EngineTensors& in) {
  STEM_TRY(CheckTensors(in));
  EngineCache made;
  BlockShape& shape = made.shape_;
  shape.order = OrderOf(in.layout);
  shape.page_tokens = shape.block_tokens = in.page_tokens;
  shape.layer_count = in.kv.layers;
  STEM_TRY(SetRows(in, shape));
  if (in.layout == PageLayout::kVllmCpu) {  // a row is all tokens of a head's page
    shape.key_bytes *= in.page_tokens;
    shape.value_bytes *= in.page_tokens;
  }
  STEM_TRY(CheckShape(shape));
  made.page_count_ = in.page_count;
  const uint64_t rows = uint64_t{shape.page_rows()} * shape.heads;
  const uint64_t key_page = rows * shape.key_bytes, value_page = rows * shape.value_bytes;
  uint64_t value_at = key_page;  // from a page's K to its V
  made.page_stride_bytes_ = key_page + value_page;
  if (in.layout == PageLayout::kVllmLbnhc || in.layout == PageLayout::kVllmLbhnc || in.layout == PageLayout::kVllmCpu) {
    value_at = shape.key_bytes;
    made.row_stride_bytes_[0] = made.row_stride_bytes_[1] = shape.key_bytes + shape.value_bytes;
  }
  if (in.layout == PageLayout::kVllmSplit || in.layout == PageLayout::kSglang) {
    if (key_page != value_page) {
      return Invalid("K and V pages of ", key_page, " and ", value_page, " bytes; ", PageLayoutName(in.layout),
                     " has rows of one width");
    }
    made.page_stride_bytes_ = key_page;
    value_at = key_page * in.page_count;
  }
  for (uint32_t i = 0; i < in.kv.layers; ++i) {
    std::byte* keys = in.tensors[in.layout == PageLayout::kTensorRtLlm ? 0 : i];
    if (in.layout == PageLayout::kTensorRtLlm) keys += i * (key_page + value_page);
    std::byte* values = in.layout == PageLayout::kSglang ? in.tensors[in.kv.layers + i] : keys + value_at;
    made.layers_.push_back({keys, shape.value_bytes == 0 ? nullptr : values});
  }
  if (in.layout == PageLayout::kTensorRtLlm) made.page_stride_bytes_ *= in.kv.layers;
  return made;
}

}  // namespace stem
