// A thread that changes the index at a rate: one node adds runs of 64 blocks of chains of its own and drops its oldest;
// every eighth run is of a chain that others hold.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <thread>

#include "tests/bench/directory/filled_index.h"
#include "tests/bench/directory/measure.h"

namespace stem::bench {

class Churn {
 public:
  static constexpr uint32_t kRunBlocks = 64;
  static constexpr size_t kRunsHeld = 1024;

  // Joins as a node of its own. `filled` must outlive this.
  explicit Churn(FilledIndex& filled) : filled_(filled), slot_(filled.Join(10'000)) {}
  ~Churn() { Stop(); }
  Churn(const Churn&) = delete;
  Churn& operator=(const Churn&) = delete;

  // Changes per second that one thread applies with nothing else going on, keys made beforehand; drained.
  double Ceiling(double seconds);

  void Start(double per_second);
  // Returns changes per second reached since Start.
  double Stop();

 private:
  struct Run {
    uint64_t chain = 0;
    uint32_t count = 0;
  };

  uint64_t Turn();  // one run in, one out; returns changes
  void Loop(double per_second);

  FilledIndex& filled_;
  const SlotHandle slot_;
  std::deque<Run> held_;
  uint64_t next_ = 0;
  double spent_ = 0;  // seconds in the index
  std::thread thread_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> done_{0};
  Clock::time_point started_;
};

}  // namespace stem::bench
