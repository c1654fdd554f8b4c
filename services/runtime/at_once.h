// Many questions at once: a fleet of a thousand nodes is asked in the time of some tens.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace stem {

// Calls `ask` for 0..count-1 from up to `at_once` threads, this one among them; returns when all have ended.
inline void AskAtOnce(size_t count, size_t at_once, absl::FunctionRef<void(size_t)> ask) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) ask(i);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(count, at_once); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace stem
