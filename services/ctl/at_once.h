// Many questions at once: a fleet of a thousand nodes is asked in the time of some forty.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

namespace stem {

inline constexpr size_t kQuestionsAtOnce = 24;

// Calls `ask` for 0..count-1, several at a time; returns when all have ended.
inline void AskAtOnce(size_t count, const std::function<void(size_t)>& ask) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) ask(i);
  };
  std::vector<std::thread> threads;
  for (size_t i = 1; i < std::min(count, kQuestionsAtOnce); ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace stem
