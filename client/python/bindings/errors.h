// absl::Status to Python's exceptions: one class a code, in stemcache/errors.py.
#pragma once

#include <exception>

#include "nanobind/nanobind.h"
#include "proto/status.h"

namespace stem::python {

// What the bindings throw; the module's translator makes the exception of its code.
class StatusError : public std::exception {
 public:
  explicit StatusError(absl::Status status) : status_(std::move(status)) {}
  const absl::Status& status() const { return status_; }
  const char* what() const noexcept override { return "stemcache status"; }

 private:
  absl::Status status_;
};

inline void Check(const absl::Status& status) {
  if (!status.ok()) throw StatusError(status);
}

template <typename T>
T ValueOf(absl::StatusOr<T> value) {
  if (!value.ok()) throw StatusError(value.status());
  return *std::move(value);
}

// The exception of `status`, not raised. Needs the GIL.
nanobind::object ExceptionOf(const absl::Status& status);

void RegisterErrors();

}  // namespace stem::python
