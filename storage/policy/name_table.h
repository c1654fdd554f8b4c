// The words for an enumeration's values, in the order in which help and errors list them.
#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem {

// "fifo, lru, ...", of kinds that have a NameOf.
template <typename Kind>
std::string NamesOf(const std::vector<Kind>& kinds) {
  return absl::StrJoin(kinds, ", ", [](std::string* out, Kind kind) { absl::StrAppend(out, NameOf(kind)); });
}

template <typename Kind, size_t N>
struct NameTable {
  using Entry = std::pair<Kind, absl::string_view>;

  absl::string_view noun;  // of one value, for errors
  Entry entries[N];

  absl::string_view NameOf(Kind kind) const {
    for (const auto& [known, name] : entries) {
      if (known == kind) return name;
    }
    return "";
  }
  absl::StatusOr<Kind> Parse(absl::string_view name) const {
    for (const auto& [kind, known] : entries) {
      if (known == name) return kind;
    }
    return absl::InvalidArgumentError(absl::StrCat(noun, " '", name, "' is unknown; use one of ", NamesOf(All())));
  }
  std::vector<Kind> All() const {
    std::vector<Kind> kinds;
    for (const auto& [kind, name] : entries) kinds.push_back(kind);
    return kinds;
  }
};

}  // namespace stem
