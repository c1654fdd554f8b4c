// Answers that took some asking, kept for a moment: however many look at a page, the fleet is asked once. Threads: any.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {

class AnswerCache {
 public:
  explicit AnswerCache(absl::Duration keep) : keep_(keep) {}

  // The answer to `question`: one that is not older than `keep`, or what `ask` returns. Who asks the same at the same time waits for it, and
  // is told the same, be it an error; beyond that errors are not kept.
  absl::StatusOr<std::string> Get(const std::string& question, const std::function<absl::StatusOr<std::string>()>& ask);

 private:
  static constexpr size_t kEntriesMax = 256;

  struct Entry {
    Mutex mutex;
    absl::Time made ABSL_GUARDED_BY(mutex) = absl::InfinitePast();
    absl::StatusOr<std::string> answer ABSL_GUARDED_BY(mutex) = absl::UnknownError("not asked");
  };

  const absl::Duration keep_;
  Mutex mutex_;
  absl::flat_hash_map<std::string, std::shared_ptr<Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
