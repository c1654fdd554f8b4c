// What an endpoint is asked: prompts of chosen lengths whose beginnings nobody has sent before, and the user's own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "proto/status.h"

namespace stem::profile {

// Words of about `tokens` tokens, drawn from `seed`; its first words tell the seed, so prompts of different seeds share no prefix.
std::string MakePrompt(uint64_t seed, double tokens, double tokens_per_word);

// One of the user's: a text, or messages.
struct UserPrompt {
  std::string prompt;
  nlohmann::json messages;    // null = a text
  uint64_t max_tokens = 0;    // 0 = the option's
};

// JSON lines: {"prompt": "..."} or {"messages": [...]}, each with "max_tokens" if it likes. Errors: NotFound; InvalidArgument names the line.
absl::StatusOr<std::vector<UserPrompt>> ReadPrompts(const std::string& path);

// Fixed for ever, so that outputs of two runs can be compared.
std::vector<std::string> FixedPrompts();

// SHA-256 of a text, in hex.
std::string Sha256Hex(const std::string& text);

}  // namespace stem::profile
