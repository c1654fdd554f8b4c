// An engine's KV cache by the name of its layout: turns the tensors that it shows into the addresses, strides and shape
// that gather and scatter take. Made once when an engine attaches. Source of the shapes: proto/kv_layout.h, PageLayout.
#pragma once

#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/block_copy.h"
#include "proto/kv_layout.h"

namespace stem {

// What an engine says of its cache.
struct EngineTensors {
  PageLayout layout = PageLayout::kVllmNhd;
  // Start of each tensor, in layer order: one per layer; for kSglang the K tensors of all layers, then the V tensors; for
  // kTensorRtLlm one pool. Host or GPU memory, borrowed by every copy.
  std::vector<std::byte*> tensors;
  uint32_t page_count = 0;   // P
  uint32_t page_tokens = 0;  // T
  uint32_t heads = 0;        // H, of this rank; 0 for a latent and for kOpaque
  KvLayout kv;               // of the model: layers, row widths and dtype; all but `layers` ignored for kOpaque
  uint64_t page_bytes = 0;   // kOpaque only
};

// InvalidArgument when no layout has this name: one of kPageLayoutNames.
absl::StatusOr<PageLayout> PageLayoutOf(absl::string_view name);

class EngineCache {
 public:
  // Errors: InvalidArgument, with the value: another number of tensors, a null one, a zero, heads or a latent that do not
  // go with the layout, scales (they lie apart in these layouts), rows that are no whole number of bytes.
  static absl::StatusOr<EngineCache> Make(const EngineTensors& tensors);

  // All of the rank's layers and heads. Borrows from this object, and what it borrows itself.
  PagedCache cache() const {
    return {.layers = layers_, .page_stride_bytes = page_stride_bytes_, .page_count = page_count_,
            .page_heads = shape_.heads, .row_stride_bytes = {row_stride_bytes_[0], row_stride_bytes_[1]}};
  }

  // Of a block of `block_tokens`, all layers; narrow layer_first, layer_count to copy layer by layer. CheckShape() says
  // whether block_tokens fit.
  BlockShape ShapeOf(uint32_t block_tokens) const {
    BlockShape shape = shape_;
    shape.block_tokens = block_tokens;
    return shape;
  }

 private:
  EngineCache() = default;

  BlockShape shape_;
  std::vector<LayerPages> layers_;
  uint64_t page_stride_bytes_ = 0;
  uint32_t page_count_ = 0;
  uint64_t row_stride_bytes_[2] = {0, 0};
};

}  // namespace stem
