// The policies by name.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "storage/policy/eviction.h"

namespace stem {

enum class PolicyKind : uint8_t { kFifo, kLru, kLfu, kLrfu, kSlru, kS3Fifo, kSieve, kWTinyLfu, kArc, kStem };

// "lru". Errors of the other way: InvalidArgument that names the right words.
absl::string_view NameOf(PolicyKind kind);
absl::StatusOr<PolicyKind> ParsePolicy(absl::string_view name);
std::vector<PolicyKind> AllPolicies();

// The classic ones as published; `stem` keeps law 7 by itself. `capacity_blocks`, at least 1: what the tier holds; some policies divide it up.
std::unique_ptr<EvictionPolicy> MakePolicy(PolicyKind kind, size_t capacity_blocks);
// The same, kept to law 7 (leaf_first.h).
std::unique_ptr<EvictionPolicy> MakeLeafFirstPolicy(PolicyKind kind, size_t capacity_blocks);

}  // namespace stem
