// A CacheClient as Python holds it: closed when Python says so, or when the last user is gone.
#pragma once

#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/cache_client.h"
#include "proto/mutex.h"

namespace stem::python {

inline absl::Time After(double timeout_s) { return absl::Now() + absl::Seconds(timeout_s); }

class PyClient;

// The client of one call. Made and dropped with the GIL, which it lets go of where it is the last user: threads that end with
// the client may be in a callback that waits for the GIL. Must not outlive the PyClient.
class LiveClient {
 public:
  LiveClient(const PyClient& owner, std::shared_ptr<CacheClient> client) : owner_(owner), client_(std::move(client)) {}
  ~LiveClient();
  LiveClient(const LiveClient&) = delete;
  LiveClient& operator=(const LiveClient&) = delete;

  CacheClient* operator->() const { return client_.get(); }
  CacheClient& operator*() const { return *client_; }

 private:
  const PyClient& owner_;
  std::shared_ptr<CacheClient> client_;
};

// Threads: any, with the GIL.
class PyClient {
 public:
  // Attaches; the GIL is released meanwhile. Throws StatusError.
  PyClient(CacheClient::Options options, double timeout_s);
  ~PyClient();
  PyClient(const PyClient&) = delete;
  PyClient& operator=(const PyClient&) = delete;

  void Close();
  // Throws StatusError once it is closed.
  LiveClient get() const { return {*this, Share()}; }
  // The same for whoever keeps it beyond a call: who must not have the GIL when it lets go.
  std::shared_ptr<CacheClient> Share() const;
  // Lets go of `user` unless it may be the last one.
  void GiveBack(std::shared_ptr<CacheClient>& user) const;

 private:
  mutable Mutex mutex_;
  std::shared_ptr<CacheClient> client_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem::python
