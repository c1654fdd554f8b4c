#include "services/directory/reader_epochs.h"

namespace stem {
namespace {

size_t NextThread() {
  static std::atomic<size_t> threads{0};
  return threads.fetch_add(1, std::memory_order_relaxed);
}

}  // namespace

std::atomic<uint32_t>& ReaderEpochs::Enter() const {
  thread_local const size_t stripe = NextThread() % kStripes;
  std::atomic<uint32_t>& readers = stripes_[stripe].readers[epoch_.load(std::memory_order_seq_cst) & 1];
  readers.fetch_add(1, std::memory_order_seq_cst);
  return readers;
}

void ReaderEpochs::TryAdvance() {
  // A full barrier: what was unlinked before is unlinked for whoever is counted after.
  const uint64_t epoch = epoch_.fetch_add(0, std::memory_order_seq_cst);
  for (const Stripe& stripe : stripes_) {
    if (stripe.readers[(epoch + 1) & 1].load(std::memory_order_seq_cst) != 0) return;
  }
  epoch_.store(epoch + 1, std::memory_order_seq_cst);
}

}  // namespace stem
