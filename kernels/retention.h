// Token retention for engines that prune inside a sequence: which tokens to keep, and the compaction of their pages.
// What is pruned is lossy: its blocks belong to a namespace of their own, never to that of exact ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/block_copy.h"

namespace stem {

// Positions of the tokens to keep, ascending. Any thread.

// The last `window` tokens.
std::vector<uint32_t> KeepWindow(uint32_t tokens, uint32_t window);

// The first `sinks` and the last `window` tokens. Source: Xiao et al., "Efficient Streaming Language Models with
// Attention Sinks", 2023 (StreamingLLM).
std::vector<uint32_t> KeepSinksAndWindow(uint32_t tokens, uint32_t sinks, uint32_t window);

// Of `scores` (accumulated attention, one for each token) the `heavy` highest among those before the last `window`
// tokens, and those. Of equal scores the later token stays; a NaN counts as the lowest. Source: Zhang et al., "H2O:
// Heavy-Hitter Oracle for Efficient Generative Inference of Large Language Models", 2023.
std::vector<uint32_t> KeepHeavyHitters(std::span<const float> scores, uint32_t heavy, uint32_t window);

// Moves the kept tokens of a sequence to its front: token kept[i] to place i, in all layers, planes and heads of `shape`.
// `pages`: the sequence's page table, one for all layers, at least as long as kept.back() asks; block_tokens of the shape
// is not looked at. Pages from CompactedPages() on hold nothing that is kept and may be freed; places behind the last
// kept one keep old bytes. In place, never allocates. Any thread.
// Errors: InvalidArgument (with the value) as Scatter for shape, cache and pages; opaque pages of several tokens; a slice;
// `kept` empty, not ascending, or beyond the pages. Nothing was moved then.
absl::Status CompactTokens(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                           std::span<const uint32_t> kept);

// Pages that `kept` tokens fill.
constexpr uint32_t CompactedPages(uint32_t kept, uint32_t page_tokens) { return (kept + page_tokens - 1) / page_tokens; }

// The same, queued on `stream`; `pages` and `kept` lie where the GPU can read them (its own or pinned memory), must stay
// until the work is over, and are not checked but for their sizes.
absl::Status CompactTokens(const BlockShape& shape, const PagedCache& cache, std::span<const uint32_t> pages,
                           std::span<const uint32_t> kept, const Stream& stream);

namespace retention_internal {

// The sequence as one block of all its pages. `check_pages`: read the table, too.
absl::StatusOr<CopyPlan> PlanCompaction(const BlockShape& shape, const PagedCache& cache,
                                        std::span<const uint32_t> pages, size_t kept, bool check_pages, CopyItem& item);

}  // namespace retention_internal

}  // namespace stem
