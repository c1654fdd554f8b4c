// Checks of single fields that the files of proto/validate.h share.
#pragma once

#include <cstdint>
#include <optional>
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

}  // namespace stem::fields
