#include "services/ctl/prompt_file.h"

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace stem {
namespace {

constexpr size_t kFileBytesMax = 64 << 20;

// The words of a JSON list of numbers or texts, or of plain text: brackets, commas and quotes part them like spaces.
std::vector<absl::string_view> WordsOf(absl::string_view text) { return absl::StrSplit(text, absl::ByAnyChar(" \t\r\n,[]\""), absl::SkipEmpty()); }

absl::Status WrongWord(absl::string_view word, size_t at, absl::string_view right) {
  return absl::InvalidArgumentError(absl::StrCat("entry ", at, " is '", word.substr(0, 64), "'; it must be ", right));
}

}  // namespace

absl::StatusOr<std::string> ReadPromptFile(const std::string& path) {
  std::ifstream file;
  if (path != "-") file.open(path, std::ios::binary);
  std::istream& in = path == "-" ? std::cin : file;
  if (!in) return absl::UnavailableError(absl::StrCat("cannot read ", path));
  std::string text(kFileBytesMax + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kFileBytesMax) return absl::ResourceExhaustedError(absl::StrCat(path, " has more than ", kFileBytesMax, " bytes"));
  return text;
}

absl::StatusOr<std::vector<uint32_t>> ParseTokens(absl::string_view text) {
  std::vector<uint32_t> tokens;
  for (const absl::string_view word : WordsOf(text)) {
    uint32_t token = 0;
    if (!absl::SimpleAtoi(word, &token)) return WrongWord(word, tokens.size(), "a token id, 0 to 4294967295");
    tokens.push_back(token);
  }
  if (tokens.empty()) return absl::InvalidArgumentError("there are no tokens in it");
  return tokens;
}

absl::StatusOr<std::vector<BlockKey>> ParseKeys(absl::string_view text) {
  std::vector<BlockKey> keys;
  for (const absl::string_view word : WordsOf(text)) {
    const bool hex = word.size() == 2 * sizeof(BlockKey) && word.find_first_not_of("0123456789abcdefABCDEF") == word.npos;
    if (!hex) return WrongWord(word, keys.size(), "a key of 32 hex digits");
    const std::string bytes = absl::HexStringToBytes(word);
    std::memcpy(static_cast<void*>(&keys.emplace_back()), bytes.data(), sizeof(BlockKey));
  }
  if (keys.empty()) return absl::InvalidArgumentError("there are no keys in it");
  return keys;
}

}  // namespace stem
