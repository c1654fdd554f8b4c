// What operators hand to stemctl of a prompt: its tokens, or its keys.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/block_key.h"
#include "proto/status.h"

namespace stem {

// The file's bytes; "-" = standard input. Errors: Unavailable, ResourceExhausted (over 64 MiB).
absl::StatusOr<std::string> ReadPromptFile(const std::string& path);

// A JSON list of integers, or integers parted by spaces, commas or lines. Errors: InvalidArgument (names the first that is no token id; none).
absl::StatusOr<std::vector<uint32_t>> ParseTokens(absl::string_view text);

// A JSON list of texts, or words, of 32 hex digits each. Errors: as of ParseTokens.
absl::StatusOr<std::vector<BlockKey>> ParseKeys(absl::string_view text);

}  // namespace stem
