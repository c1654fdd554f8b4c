// A CacheClient as Python holds it: closed when Python says so, or when the last user is gone.
#pragma once

#include <memory>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cache_client.h"
#include "proto/mutex.h"

namespace stem::python {

inline absl::Time After(double timeout_s) { return absl::Now() + absl::Seconds(timeout_s); }

// Threads: any, with the GIL.
class PyClient {
 public:
  // Attaches; the GIL is released meanwhile. Throws StatusError.
  PyClient(CacheClient::Options options, double timeout_s);
  ~PyClient();
  PyClient(const PyClient&) = delete;
  PyClient& operator=(const PyClient&) = delete;

  void Close();
  // Throws StatusError once it is closed. Whoever keeps it long must not have the GIL when it lets go.
  std::shared_ptr<CacheClient> get() const;

 private:
  mutable Mutex mutex_;
  std::shared_ptr<CacheClient> client_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem::python
