#include "storage/spill/disk_crew.h"

#include <algorithm>

namespace stem {

DiskCrew::DiskCrew(size_t threads) {
  for (size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

DiskCrew::~DiskCrew() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
    wanted_.NotifyAll();
  }
  for (std::thread& thread : threads_) thread.join();
}

void DiskCrew::DoOne(Order& order) {
  const size_t number = order.next++;
  if (order.next == order.count) orders_.erase(std::find(orders_.begin(), orders_.end(), &order));
  mutex_.Unlock();
  order.job(number);
  mutex_.Lock();
  if (++order.done == order.count) order.finished.NotifyAll();
}

void DiskCrew::Work() {
  const MutexLock lock(mutex_);
  while (true) {
    if (!orders_.empty()) {
      DoOne(*orders_.front());
    } else if (stopping_) {
      return;
    } else {
      wanted_.Wait(mutex_);
    }
  }
}

void DiskCrew::Run(size_t count, absl::FunctionRef<void(size_t)> job) {
  if (count == 0) return;
  if (count == 1) return job(0);
  Order order{.job = job, .count = count, .finished = {}};
  const MutexLock lock(mutex_);
  orders_.push_back(&order);
  for (size_t i = 0; i < std::min(count - 1, threads_.size()); ++i) wanted_.NotifyOne();
  while (order.next < order.count) DoOne(order);
  while (order.done < order.count) order.finished.Wait(mutex_);
}

}  // namespace stem
