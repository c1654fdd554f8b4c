// Lets many readers look at memory without a lock while a writer takes parts of it away: what the writer retires is
// freed once no reader is left that may have seen it. Readers announce themselves in one of two counters; the writer
// moves new readers to the other counter whenever that one is empty, and what was retired two moves ago has no reader.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>

namespace stem {

class ReaderEpochs {
 public:
  ReaderEpochs() = default;
  ReaderEpochs(const ReaderEpochs&) = delete;
  ReaderEpochs& operator=(const ReaderEpochs&) = delete;

  // While it lives, nothing that could be seen when it was made is freed. Any thread; some 10 ns.
  class Guard {
   public:
    explicit Guard(const ReaderEpochs& epochs) : readers_(epochs.Enter()) {}
    ~Guard() { readers_.fetch_sub(1, std::memory_order_release); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    std::atomic<uint32_t>& readers_;
  };

  // What is retired: a table array (aligned, never null) or a piece of the index's memory.
  struct Retired {
    void* array = nullptr;
    uint32_t ref = 0;
  };

  // The writer's, one thread at a time.

  // `what` can no longer be found by new readers.
  void Retire(Retired what) { retired_.push_back({.epoch = epoch_.load(std::memory_order_relaxed), .what = what}); }
  // Hands what has no readers left to `free`. Never waits.
  template <typename Free>
  void Reclaim(Free free) {
    if (retired_.empty()) return;
    TryAdvance();
    TryAdvance();
    const uint64_t epoch = epoch_.load(std::memory_order_relaxed);
    for (; !retired_.empty() && retired_.front().epoch + 2 <= epoch; retired_.pop_front()) free(retired_.front().what);
  }

 private:
  static constexpr size_t kStripes = 16;  // so that readers on different cores do not share a line
  struct alignas(64) Stripe {
    std::array<std::atomic<uint32_t>, 2> readers{};
  };
  struct Waiting {
    uint64_t epoch;
    Retired what;
  };

  std::atomic<uint32_t>& Enter() const;
  void TryAdvance();

  mutable std::array<Stripe, kStripes> stripes_;
  std::atomic<uint64_t> epoch_{0};
  std::deque<Waiting> retired_;
};

}  // namespace stem
