// The one error idiom: absl::Status and absl::StatusOr, passed on with these two macros. What each code
// means to a caller is the table in proto/README.md; every row of it ends in "recompute".
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define STEM_CONCAT_INNER(a, b) a##b
#define STEM_CONCAT(a, b) STEM_CONCAT_INNER(a, b)

// Returns from the function when `expression`, an absl::Status, is not OK.
#define STEM_TRY(expression)                                              \
  do {                                                                    \
    if (absl::Status stem_status = (expression); !stem_status.ok()) {     \
      return stem_status;                                                 \
    }                                                                     \
  } while (false)

// Evaluates an absl::StatusOr; returns its status on failure, else binds `declaration` to its value.
#define STEM_ASSIGN(declaration, expression) \
  STEM_ASSIGN_INNER(STEM_CONCAT(stem_status_or_, __LINE__), declaration, expression)
#define STEM_ASSIGN_INNER(name, declaration, expression) \
  auto name = (expression);                              \
  if (!name.ok()) return std::move(name).status();       \
  declaration = *std::move(name)
