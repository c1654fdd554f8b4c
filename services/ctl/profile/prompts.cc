#include "services/ctl/profile/prompts.h"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <random>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace stem::profile {
namespace {

constexpr size_t kPromptsMax = 10'000;
constexpr size_t kLineBytesMax = 16 << 20;

constexpr std::array<const char*, 48> kWords = {
    "river", "copper", "window", "seven", "garden", "market", "signal", "paper", "winter", "engine", "harbour", "silent",
    "bridge", "orange", "letter", "mountain", "story", "circle", "morning", "glass", "forest", "metal", "number", "quiet",
    "road", "island", "music", "stone", "yellow", "table", "ocean", "clock", "village", "cloud", "green", "machine",
    "summer", "light", "house", "question", "north", "field", "water", "answer", "train", "small", "city", "evening"};

constexpr std::array<const char*, 4> kFixed = {
    "Explain in a few sentences why copying a cached result can be faster than computing it again.",
    "List the first twelve prime numbers and say what they have in common.",
    "def fibonacci(n):\n    \"\"\"Returns the n-th Fibonacci number.\"\"\"\n",
    "Once upon a time there was a lighthouse keeper who counted every ship that passed. One night"};

absl::StatusOr<UserPrompt> ParseLine(const std::string& line) {
  const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("not a JSON object");
  UserPrompt prompt;
  if (json.contains("prompt") && json["prompt"].is_string()) prompt.prompt = json["prompt"];
  if (json.contains("messages") && json["messages"].is_array()) prompt.messages = json["messages"];
  if (prompt.prompt.empty() == prompt.messages.is_null()) {
    return absl::InvalidArgumentError("must have one of \"prompt\" (a text) and \"messages\" (a list)");
  }
  if (!json.contains("max_tokens")) return prompt;
  if (!json["max_tokens"].is_number_unsigned() || json["max_tokens"] == 0) {
    return absl::InvalidArgumentError("\"max_tokens\" must be a whole number of at least 1");
  }
  prompt.max_tokens = json["max_tokens"];
  return prompt;
}

}  // namespace

std::string MakePrompt(uint64_t seed, double tokens, double tokens_per_word) {
  std::mt19937_64 random(seed);
  std::string text = absl::StrCat(absl::Hex(random(), absl::kZeroPad16));
  for (double made = 4 * tokens_per_word; made < tokens; made += tokens_per_word) {
    absl::StrAppend(&text, " ", kWords[random() % kWords.size()]);
  }
  return text;
}

absl::StatusOr<std::vector<UserPrompt>> ReadPrompts(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::vector<UserPrompt> prompts;
  std::string line;
  for (size_t number = 1; std::getline(file, line); ++number) {
    if (line.empty()) continue;
    absl::StatusOr<UserPrompt> prompt = line.size() > kLineBytesMax ? absl::InvalidArgumentError("longer than 16 MiB") : ParseLine(line);
    if (!prompt.ok()) return absl::InvalidArgumentError(absl::StrCat(path, ", line ", number, ": ", prompt.status().message()));
    prompts.push_back(*std::move(prompt));
    if (prompts.size() > kPromptsMax) return absl::InvalidArgumentError(absl::StrCat(path, ": more than ", kPromptsMax, " prompts"));
  }
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no prompt in it"));
  return prompts;
}

std::vector<std::string> FixedPrompts() { return {kFixed.begin(), kFixed.end()}; }

std::string Sha256Hex(const std::string& text) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest;
  unsigned int size = 0;
  EVP_Digest(text.data(), text.size(), digest.data(), &size, EVP_sha256(), nullptr);
  return absl::BytesToHexString(absl::string_view(reinterpret_cast<const char*>(digest.data()), size));
}

}  // namespace stem::profile
