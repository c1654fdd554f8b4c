#include "client/executor.h"

#include <utility>

namespace stem {

Executor::~Executor() { Stop(); }

bool Executor::Post(std::function<void()> task) {
  MutexLock lock(mutex_);
  if (stopped_ || tasks_.size() >= kTasksMax) return false;
  tasks_.push_back(std::move(task));
  if (threads_.empty()) {
    for (size_t i = 0; i < kThreads; ++i) threads_.emplace_back([this] { Run(); });
  }
  changed_.NotifyOne();
  return true;
}

void Executor::Stop() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    changed_.NotifyAll();
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void Executor::Run() {
  mutex_.Lock();
  while (true) {
    while (tasks_.empty() && !stopped_) changed_.Wait(mutex_);
    if (tasks_.empty()) break;
    {  // ends before the lock is taken again: to let go of what a task holds may take another, as Python's
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      mutex_.Unlock();
      task();
    }
    mutex_.Lock();
  }
  mutex_.Unlock();
}

}  // namespace stem
