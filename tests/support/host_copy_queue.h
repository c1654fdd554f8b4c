// The twin of a GPU's copy queue on the host: a thread that does what was queued in order, always a little later, so that who does not wait
// finds nothing there. Can be told to fail, as a GPU does: from then on always.
#pragma once

#include <algorithm>
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/copy_queue.h"
#include "proto/mutex.h"

namespace stem::testing {

class HostCopyQueue final : public CopyQueue {
 public:
  // What all queues of a device have in common. Threads: any.
  struct Device {
    std::atomic<int64_t> works_until_failure{INT64_MAX};
    std::atomic<int64_t> works_done{0};
  };

  HostCopyQueue(Device& device, size_t pinned_bytes) : device_(device), pinned_(pinned_bytes), thread_([this] { Run(); }) {}
  ~HostCopyQueue() override {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    thread_.join();
  }

  std::span<std::byte> pinned() const override { return pinned_; }
  absl::Status EnterThread() override { return absl::OkStatus(); }
  absl::Status Gather(const BlockShape& shape, const PagedCache& cache, const BlockDestination& block) override {
    return Queue([shape, cache, pages = Copied(block.pages), to = block.block] { return stem::Gather(shape, cache, pages, to); });
  }
  absl::Status Scatter(const BlockShape& shape, const PagedCache& cache, const BlockSource& block) override {
    return Queue([shape, cache, pages = Copied(block.pages), from = block.block] { return stem::Scatter(shape, cache, pages, from); });
  }
  absl::Status Copy(std::span<std::byte> dst, std::span<const std::byte> src) override {
    return Queue([dst, src] {
      std::copy(src.begin(), src.end(), dst.begin());
      return absl::OkStatus();
    });
  }
  absl::Status Mark(size_t which) override {
    MutexLock lock(mutex_);
    marks_.at(which) = queued_;
    return failed_;
  }
  absl::Status Await(size_t which) override {
    MutexLock lock(mutex_);
    while (done_ < marks_.at(which)) changed_.Wait(mutex_);
    return failed_;
  }

 private:
  static std::vector<uint32_t> Copied(std::span<const uint32_t> pages) { return {pages.begin(), pages.end()}; }

  absl::Status Queue(std::function<absl::Status()> work) {
    MutexLock lock(mutex_);
    work_.push_back(std::move(work));
    ++queued_;
    changed_.NotifyAll();
    return failed_;
  }

  void Run() {
    MutexLock lock(mutex_);
    while (true) {
      while (!stopping_ && work_.empty()) changed_.Wait(mutex_);
      if (work_.empty()) return;
      const std::function<absl::Status()> work = std::move(work_.front());
      work_.pop_front();
      const bool fails = device_.works_done.fetch_add(1) >= device_.works_until_failure.load();
      mutex_.Unlock();
      absl::SleepFor(absl::Microseconds(200));
      const absl::Status status = fails ? absl::InternalError("an illegal memory access was encountered") : work();
      mutex_.Lock();
      if (failed_.ok()) failed_ = status;
      ++done_;
      changed_.NotifyAll();
    }
  }

  Device& device_;
  mutable std::vector<std::byte> pinned_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<std::function<absl::Status()>> work_ ABSL_GUARDED_BY(mutex_);
  std::vector<uint64_t> marks_ ABSL_GUARDED_BY(mutex_) = std::vector<uint64_t>(kMarksMax);
  uint64_t queued_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t done_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status failed_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace stem::testing
