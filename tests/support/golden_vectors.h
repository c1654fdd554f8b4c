// tests/unit/proto/golden_vectors.json, which golden_vectors.py computes apart from our code.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "proto/check.h"

namespace stem::testing {

inline nlohmann::json GoldenVectors(const char* section) {
  std::ifstream file(STEM_SOURCE_DIR "/tests/unit/proto/golden_vectors.json");
  const nlohmann::json vectors = nlohmann::json::parse(file).at(section);
  STEM_CHECK(!vectors.empty());
  return vectors;
}

inline std::string Unhex(const nlohmann::json& hex) { return absl::HexStringToBytes(hex.get<std::string>()); }

// The 16 or 32 bytes of a name.
template <typename T>
T NameFromHex(const nlohmann::json& hex) {
  const std::string bytes = Unhex(hex);
  T name;
  STEM_CHECK(bytes.size() == sizeof(name));
  std::memcpy(static_cast<void*>(&name), bytes.data(), sizeof(name));
  return name;
}

}  // namespace stem::testing
