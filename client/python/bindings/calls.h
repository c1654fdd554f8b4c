// A call that runs without a waiting thread: Python polls it, or is called back on a thread of the client.
#pragma once

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "client/python/bindings/errors.h"
#include "client/python/bindings/memory.h"
#include "nanobind/nanobind.h"
#include "proto/mutex.h"

namespace stem::python {

// A Python callable that any thread may drop.
class Callback {
 public:
  explicit Callback(nanobind::object function) : function_(std::move(function)) {}
  ~Callback() {
    if (Py_IsInitialized() == 0) {
      function_.release();  // nobody is left to free it
      return;
    }
    const nanobind::gil_scoped_acquire gil;
    function_.reset();
  }
  void operator()() const {
    const nanobind::gil_scoped_acquire gil;
    if (!function_.is_none()) PyObject_CallNoArgs(function_.ptr());
    if (PyErr_Occurred() != nullptr) PyErr_WriteUnraisable(function_.ptr());
  }

 private:
  nanobind::object function_;
};

// Threads: any. `T` is an absl::StatusOr, or a LoadResult.
template <typename T>
class Pending {
 public:
  void Set(T value) {
    MutexLock lock(mutex_);
    value_.emplace(std::move(value));
  }
  bool done() const {
    MutexLock lock(mutex_);
    return value_.has_value() || taken_;
  }
  // Throws when it runs still, or was taken.
  T Take() {
    MutexLock lock(mutex_);
    if (!value_.has_value()) {
      throw StatusError(absl::FailedPreconditionError(taken_ ? "the result was taken" : "the call has not ended"));
    }
    taken_ = true;
    T value = *std::move(value_);
    value_.reset();
    return value;
  }

  std::vector<HostBytes> held;  // memory of a load, until this is dropped
  std::vector<std::span<std::byte>> destinations;

 private:
  mutable Mutex mutex_;
  std::optional<T> value_ ABSL_GUARDED_BY(mutex_);
  bool taken_ ABSL_GUARDED_BY(mutex_) = false;
};

// What a Python object of a call holds, and the closure that ends it.
template <typename T>
struct Call {
  std::shared_ptr<Pending<T>> pending = std::make_shared<Pending<T>>();

  // `notify`: None, or called without arguments once the result is there.
  auto Ending(nanobind::object notify) const {
    return [pending = pending, callback = std::make_shared<Callback>(std::move(notify))](T value) {
      pending->Set(std::move(value));
      (*callback)();
    };
  }
};

}  // namespace stem::python
