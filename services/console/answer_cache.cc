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
  MutexLock lock(entry->mutex);
  if (MonotonicNow() - entry->made <= keep_) return entry->answer;
  STEM_ASSIGN(std::string answer, ask());
  entry->answer = std::move(answer);
  entry->made = MonotonicNow();
  return entry->answer;
}

}  // namespace stem
