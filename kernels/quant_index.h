// From a row of a quantizing copy to its places in page and block, for host and device; the counterpart of copy_index.h.
// Internal to kernels/ and its tests.
#pragma once

#include "kernels/copy_index.h"
#include "kernels/quant_plan.h"

namespace stem {

// The rows of one item, [layer][plane][token][head of the slice], numbered one after another.
struct QuantIndex {
  Divider layer;  // rows of a layer
  Divider plane;  // rows of a plane
  Divider head;   // copied heads
  Divider page_rows;
  uint32_t page_count;
  uint32_t block_heads;
  uint32_t block_head_first;
  uint32_t page_head_first;
  uint32_t elements[2];
  uint64_t page_stride_bytes;
  uint64_t page_token_bytes[2];
  uint64_t page_head_bytes[2];
  uint64_t layer_bytes;  // of the quantized block
  uint64_t plane_at[2];
  uint64_t scale_bytes[2];
  uint64_t code_bytes[2];
  uint64_t row_bytes[2];
  bool layer_tables;

  static QuantIndex Of(const QuantPlan& plan) {
    const CopyPlan& copy = plan.copy;
    QuantIndex index = {};
    const uint64_t plane_rows = copy.rows() * copy.heads;
    index.layer = Divider::Of(plane_rows * (plan.elements[1] == 0 ? 1 : 2));
    index.plane = Divider::Of(plane_rows);
    index.head = Divider::Of(copy.heads);
    index.page_rows = Divider::Of(copy.page_rows);
    index.page_count = copy.page_count;
    index.block_heads = copy.block_heads;
    index.block_head_first = copy.block_head_first;
    index.page_head_first = copy.page_head_first;
    index.page_stride_bytes = copy.page_stride_bytes;
    index.layer_bytes = plan.layer_bytes();
    index.plane_at[1] = plan.plane_bytes(0);
    for (int i = 0; i < 2; ++i) {
      const uint64_t page_row = copy.row_stride_bytes[i];
      index.elements[i] = plan.elements[i];
      index.page_token_bytes[i] = copy.head_major ? page_row : copy.page_heads * page_row;
      index.page_head_bytes[i] = copy.head_major ? copy.page_rows * page_row : page_row;
      index.scale_bytes[i] = plan.scale_bytes(i);
      index.code_bytes[i] = plan.code_bytes(i);
      index.row_bytes[i] = plan.row_bytes(i);
    }
    index.layer_tables = copy.layer_tables;
    return index;
  }

  struct Place {
    uint32_t layer;
    uint32_t plane;
    uint32_t table;        // of the item's page ids
    uint64_t page_bytes;   // from the page's first byte
    uint64_t block_bytes;  // from the block's first byte: the row's codes
  };

  STEM_HOST_DEVICE Place At(uint32_t at_layer, uint32_t at_plane, uint32_t token, uint32_t at_head) const {
    Place place;
    place.layer = at_layer;
    place.plane = at_plane;
    const uint32_t page = page_rows.Quotient(token);
    place.table = (layer_tables ? at_layer * page_count : 0) + page;
    place.page_bytes = (token - page * page_rows.divisor) * page_token_bytes[at_plane] +
                       (page_head_first + at_head) * page_head_bytes[at_plane];
    place.block_bytes = at_layer * layer_bytes + plane_at[at_plane] + scale_bytes[at_plane] +
                        (uint64_t{token} * block_heads + block_head_first + at_head) * row_bytes[at_plane];
    return place;
  }

  STEM_HOST_DEVICE Place Locate(uint32_t row) const {
    const uint32_t at_layer = layer.Quotient(row);
    row -= at_layer * layer.divisor;
    const uint32_t at_plane = plane.Quotient(row);
    row -= at_plane * plane.divisor;
    const uint32_t token = head.Quotient(row);
    return At(at_layer, at_plane, token, row - token * head.divisor);
  }

  // Of the scales of a head's channels, with a scale per channel.
  STEM_HOST_DEVICE uint64_t ScalesAt(uint32_t at_layer, uint32_t at_plane, uint32_t at_head) const {
    return at_layer * layer_bytes + plane_at[at_plane] +
           uint64_t{block_head_first + at_head} * elements[at_plane] * sizeof(float);
  }
};

}  // namespace stem
