#include "client/timers.h"

#include <utility>

namespace stem {

Timers::~Timers() { Stop(); }

Timers::Id Timers::At(const Deadline& deadline, std::function<void()> expire) {
  MutexLock lock(mutex_);
  const Id id{deadline.at(), next_++};
  if (stopped_) return id;
  timers_.emplace(id, std::move(expire));
  if (!thread_.joinable()) thread_ = std::thread([this] { Run(); });
  if (id.first < wakes_at_) changed_.NotifyOne();
  return id;
}

void Timers::Cancel(const Id& id) {
  std::map<Id, std::function<void()>>::node_type forgotten;  // let go of after the lock
  MutexLock lock(mutex_);
  forgotten = timers_.extract(id);
}

void Timers::Stop() {
  std::thread thread;
  std::map<Id, std::function<void()>> forgotten;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    forgotten.swap(timers_);
    changed_.NotifyOne();
    thread = std::move(thread_);
  }
  if (thread.joinable()) thread.join();
}

void Timers::Run() {
  mutex_.Lock();
  while (!stopped_) {
    if (timers_.empty()) {
      wakes_at_ = Deadline::Clock::time_point::max();
      changed_.Wait(mutex_);
      continue;
    }
    const auto first = timers_.begin();
    const auto now = Deadline::Clock::now();
    if (first->first.first > now) {
      wakes_at_ = first->first.first;
      changed_.WaitFor(mutex_, absl::FromChrono(wakes_at_ - now));
      continue;
    }
    {  // ends before the lock is taken again, as a task of the executor
      const std::function<void()> expire = std::move(first->second);
      timers_.erase(first);
      mutex_.Unlock();
      expire();
    }
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace stem
