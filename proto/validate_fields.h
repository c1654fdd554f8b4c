// Checks of single fields that the files of proto/validate.h share.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/repeated_field.h"
#include "proto/block_key.h"
#include "proto/status.h"
#include "proto/validate.h"

namespace stem::fields {

inline absl::Status Bad(absl::string_view field, const auto& value, absl::string_view right) {
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; ", right));
}

inline absl::Status TextWithin(absl::string_view field, absl::string_view text, size_t bytes_min, size_t bytes_max) {
  if (text.size() >= bytes_min && text.size() <= bytes_max) return absl::OkStatus();
  return Bad(absl::StrCat("the length of ", field), text.size(),
             absl::StrCat("it must be ", bytes_min, " to ", bytes_max, " bytes"));
}

// Of a chain: packed keys.
inline absl::Status CheckKeyBytes(size_t bytes) {
  if (bytes > 0 && bytes % sizeof(BlockKey) == 0 && bytes / sizeof(BlockKey) <= kChainBlocksMax) return absl::OkStatus();
  return Bad("the length of keys", bytes,
             absl::StrCat("it must be a multiple of 16 bytes, 1 to ", kChainBlocksMax, " keys"));
}

inline absl::StatusOr<std::vector<uint32_t>> AscendingParts(const google::protobuf::RepeatedField<uint32_t>& ids) {
  std::vector<uint32_t> parts(ids.begin(), ids.end());
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] >= kPartsMax) return Bad("part id", parts[i], absl::StrCat("it must be below ", kPartsMax));
    if (i > 0 && parts[i] <= parts[i - 1]) return Bad("part id", parts[i], "part ids must ascend");
  }
  return parts;
}

inline absl::StatusOr<std::optional<BlockKey>> OptionalKey(absl::string_view field, absl::string_view bytes) {
  if (bytes.empty()) return std::nullopt;
  if (bytes.size() != sizeof(BlockKey)) {
    return Bad(absl::StrCat("the length of ", field), bytes.size(), "it must be 16 bytes, or empty");
  }
  return (*UnpackNames<BlockKey>(bytes))[0];
}

inline absl::StatusOr<std::optional<Probe>> OptionalProbe(absl::string_view bytes) {
  if (bytes.empty()) return std::nullopt;
  if (bytes.size() != sizeof(Probe)) return Bad("the length of probe", bytes.size(), "it must be 16 bytes, or empty");
  return (*UnpackNames<Probe>(bytes))[0];
}

// `windows` is empty, or has one entry per id.
inline absl::StatusOr<std::vector<WantedPart>> WantedParts(const google::protobuf::RepeatedField<uint32_t>& ids,
                                                    const google::protobuf::RepeatedField<uint32_t>& windows) {
  if (!windows.empty() && windows.size() != ids.size()) {
    return Bad("the number of window_blocks", windows.size(), absl::StrCat("there are ", ids.size(), " parts"));
  }
  STEM_ASSIGN(const std::vector<uint32_t> ascending, AscendingParts(ids));
  if (ascending.empty()) return std::vector<WantedPart>{{.id = 0}};
  std::vector<WantedPart> parts;
  for (const uint32_t id : ascending) {
    parts.push_back({.id = id, .window_blocks = windows.empty() ? 0 : windows[static_cast<int>(parts.size())]});
  }
  return parts;
}

// What asks of a chain has in common: namespace, parts and windows.
template <typename Message>
absl::StatusOr<MatchCall> ValidateLookup(const Message& message, std::vector<BlockKey> keys) {
  MatchCall call;
  STEM_ASSIGN(call.space, ValidateFingerprint(message.namespace_fingerprint()));
  STEM_TRY(CheckKeyBytes(keys.size() * sizeof(BlockKey)));
  call.keys = std::move(keys);
  STEM_ASSIGN(call.parts, WantedParts(message.parts(), message.window_blocks()));
  if (call.keys.size() * call.parts.size() > kChainBlocksMax) {
    return Bad("keys times parts", call.keys.size() * call.parts.size(),
               absl::StrCat("it must be at most ", kChainBlocksMax));
  }
  return call;
}

}  // namespace stem::fields
