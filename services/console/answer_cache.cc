#include "services/console/answer_cache.h"

#include <utility>

#include "services/runtime/clock.h"

namespace stem {

absl::StatusOr<std::string> AnswerCache::Get(const std::string& question, const std::function<absl::StatusOr<std::string>()>& ask) {
  std::shared_ptr<Entry> entry;
  {
    MutexLock lock(mutex_);
    if (entries_.size() >= kEntriesMax && !entries_.contains(question)) entries_.clear();
    std::shared_ptr<Entry>& found = entries_[question];
    if (found == nullptr) found = std::make_shared<Entry>();
    entry = found;
  }
  const absl::Time came = MonotonicNow();
  MutexLock lock(entry->mutex);
  // Also when it is an error: who waited while it was asked for would only wait as long again.
  if (entry->made > came) return entry->answer;
  if (entry->answer.ok() && MonotonicNow() - entry->made <= keep_) return entry->answer;
  entry->answer = ask();
  entry->made = MonotonicNow();
  return entry->answer;
}

}  // namespace stem
