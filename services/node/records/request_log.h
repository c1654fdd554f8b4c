// The latest requests of this node, for operators: the recent ones, and apart from these, so that they last longer, those that were slow or
// failed. Bounded; the oldest go. Who follows waits here for the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "services/node/records/request_trace.h"
#include "stemcache/v1/operator.pb.h"

namespace stem {

// Threads: any.
class RequestLog {
 public:
  struct Options {
    std::string node;
    size_t recent_max = 4096;
    size_t kept_max = 1024;
    absl::Duration slow = absl::Milliseconds(500);  // at least so long is slow; zero = nothing is
  };
  explicit RequestLog(Options options) : options_(std::move(options)) {}

  void Add(RequestFacts facts);

  // Worth keeping longer: slow, failed, or with a miss that the cluster is to blame for rather than the prompt.
  bool IsKept(const RequestFacts& facts) const;

  // What one reader has still to be told.
  struct Reader {
    bool slow_only = false;
    std::string request;  // only this engine's id; empty = all
    uint64_t told = 0;    // number in its ring up to which it was told
  };
  // Begins so that the next read gives at most `recent` records of the past.
  Reader Begin(bool slow_only, std::string request, uint32_t recent) const;
  // What came since, oldest first, kPerRead at most; waits up to `wait` for the first, with 0 not at all. Empty also when the log stopped.
  static constexpr size_t kPerRead = 256;
  std::vector<stemcache::v1::RequestRecord> Read(Reader* reader, absl::Duration wait) const;

  // Wakes readers; Read waits no longer.
  void Stop();
  bool stopped() const;

 private:
  struct Entry {
    uint64_t number = 0;
    RequestFacts facts;
  };
  struct Ring {
    std::deque<std::shared_ptr<const Entry>> entries;  // the last is the added-th
    uint64_t added = 0;

    // Returns what had to make room.
    std::shared_ptr<const Entry> Add(std::shared_ptr<const Entry> entry, size_t entries_max);
  };
  const Ring& RingOf(const Reader& reader) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return reader.slow_only ? kept_ : recent_; }
  stemcache::v1::RequestRecord ToRecord(const Entry& entry) const;

  const Options options_;
  mutable Mutex mutex_;
  mutable CondVar added_;
  uint64_t requests_ ABSL_GUARDED_BY(mutex_) = 0;
  Ring recent_ ABSL_GUARDED_BY(mutex_);
  Ring kept_ ABSL_GUARDED_BY(mutex_);
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace stem
