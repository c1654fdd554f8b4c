// Clocks, percentiles, memory and the floor: what a machine allows at best.
//
// How single calls are timed: one pair of fenced reads of the time stamp counter around each call, less the median of
// an empty pair, which is measured beside them and reported. Batches are timed by steady_clock.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/numeric/int128.h"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace stem::bench {

using Clock = std::chrono::steady_clock;

inline double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

#if defined(__x86_64__)
// Nothing before it is unfinished, nothing after it has begun.
inline uint64_t TicksNow() {
  unsigned processor = 0;
  const uint64_t ticks = __rdtscp(&processor);
  _mm_lfence();
  return ticks;
}
#else
inline uint64_t TicksNow() { return static_cast<uint64_t>(Clock::now().time_since_epoch().count()); }
#endif

// Measured once, where the benches begin; takes some 20 ms.
struct TickScale {
  double ns_per_tick = 1;
  uint64_t empty_ticks = 0;  // median of a pair with nothing in between

  static TickScale Measure();
};

// Latencies in nanoseconds.
class Samples {
 public:
  void Reserve(size_t count) { ns_.reserve(count); }
  void Add(double ns) { ns_.push_back(ns); }
  void AddTicks(uint64_t ticks, const TickScale& scale) {
    Add(static_cast<double>(ticks - (ticks < scale.empty_ticks ? ticks : scale.empty_ticks)) * scale.ns_per_tick);
  }
  void Append(const Samples& other) { ns_.insert(ns_.end(), other.ns_.begin(), other.ns_.end()); }
  void Clear() { ns_.clear(); }
  size_t count() const { return ns_.size(); }
  // 0 <= share <= 1; 1 is the maximum. 0 when there are none. Reorders.
  double At(double share);

 private:
  std::vector<double> ns_;
};

double Median(std::vector<double> values);

// Of one thread: the longest of many calls that the kernel did not interrupt to run something else, which on a busy
// machine takes ten milliseconds and says nothing of us. Waiting for a lock counts.
class Longest {
 public:
  void Add(double ns);
  double ns() const { return longest_; }
  uint64_t interrupted() const { return interrupted_; }  // calls left out
  void Clear() { longest_ = 0, interrupted_ = 0; }

 private:
  static constexpr uint64_t kLookEvery = 64;
  static constexpr double kNoticedNs = 20'000;  // shorter calls need no look at the kernel's count

  uint64_t calls_ = 0;
  int64_t switches_ = 0;
  double longest_ = 0;
  uint64_t interrupted_ = 0;
};

struct ProcessUse {
  uint64_t resident_bytes = 0;
  uint64_t huge_bytes = 0;  // of those, in transparent huge pages
  double cpu_seconds = 0;   // user and system
};
// Of a process, 0 = this one. Zeros when there is no such process.
ProcessUse UseOf(pid_t process = 0);

// Random reads over memory of its own, of 8 bytes each.
class Floor {
 public:
  // `huge`: asks for transparent huge pages, as what it is compared with has them.
  Floor(uint64_t bytes, bool huge);
  ~Floor();
  Floor(const Floor&) = delete;
  Floor& operator=(const Floor&) = delete;

  double DependentNs(uint64_t reads);    // each address needs the value read before
  double IndependentNs(uint64_t reads);  // as many at once as the processor can
  // One read at a time, timed like a call.
  void Single(uint64_t reads, const TickScale& scale, Samples& samples);

 private:
  uint64_t Slot(uint64_t random) const { return absl::Uint128High64(absl::uint128(random) * words_); }

  const uint64_t words_;
  volatile uint64_t* data_ = nullptr;
  uint64_t at_ = 1;
};

}  // namespace stem::bench
