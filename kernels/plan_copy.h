// From the caller's words to a checked CopyPlan. Internal to kernels/.
#pragma once

#include "absl/strings/str_cat.h"
#include "kernels/block_copy.h"

namespace stem::block_copy_internal {

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// `items`: room for kBatchBlocksMax of them, which the plan borrows; need not be initialised. Fills it and checks everything that block_copy.h promises to refuse. `block_bytes`: what each block must have
// (shape.block_bytes(), or less where the block is kept quantized).
absl::StatusOr<CopyPlan> PlanCopy(const BlockShape& shape, const PagedCache& cache,
                                  std::span<const BlockDestination> blocks, uint64_t block_bytes,
                                  CopyItem* items);
absl::StatusOr<CopyPlan> PlanCopy(const BlockShape& shape, const PagedCache& cache,
                                  std::span<const BlockSource> blocks, uint64_t block_bytes, CopyItem* items);

// The plan of a whole sequence that lies in `pages`, any number up to kBatchPagesMax of one table for all layers, without a
// block. `check_pages`: false where only the GPU can read the table. `shape.block_tokens` is not looked at.
absl::StatusOr<CopyPlan> PlanSequence(const BlockShape& shape, const PagedCache& cache,
                                      std::span<const uint32_t> pages, bool check_pages, CopyItem& item);

// One digest and its hashes for each block of `block_bytes`, and no gather of a slice.
absl::Status CheckDigests(const CopyPlan& plan, uint64_t block_bytes, std::span<const BlockDigest> digests);

}  // namespace stem::block_copy_internal
