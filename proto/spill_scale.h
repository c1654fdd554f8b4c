// What a namespace must be like for its spilled blocks to be kept as 8-bit codes, and how many elements share a scale there.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "proto/namespace_spec.h"

namespace stem {

// Elements that share a scale: no more, however long a row is, so that a large value spoils few others.
inline constexpr uint32_t kSpillScaleElementsMax = 128;
// And no fewer: a scale has 4 bytes.
inline constexpr uint32_t kSpillScaleElementsMin = 16;

// Elements that share a scale in every payload of `spec`: the row of one head (its K or its V of one token), or an equal share of it, where the
// parts tell layers and heads apart; else a share of what they tell.
// Errors: InvalidArgument, with the part, the value and what would be right, when `spec` does not keep plain elements of fp16, bf16 or fp32.
absl::StatusOr<uint32_t> SpillScaleElements(const NamespaceSpec& spec);

}  // namespace stem
