#include "tests/bench/directory/churn.h"

#include <sys/prctl.h>

#include <algorithm>
#include <array>

namespace stem::bench {
namespace {

constexpr uint64_t kOwnChains = 1ULL << 40;  // beyond every shape's

std::span<const uint64_t> Fingerprints(uint64_t chain, uint32_t count, std::array<uint64_t, Churn::kRunBlocks>& keys) {
  for (uint32_t i = 0; i < count; ++i) keys[i] = FingerprintAt(chain, i);
  return std::span<const uint64_t>(keys).first(count);
}

}  // namespace

uint64_t Churn::Turn() {
  std::array<uint64_t, kRunBlocks> in, out;
  const uint64_t turn = next_++;
  Run run{.chain = kOwnChains + turn, .count = kRunBlocks};
  if (turn % 8 == 0) {
    run.chain = Mix(turn) % filled_.shape.chains();
    run.count = std::min(kRunBlocks, filled_.shape.blocks_of(run.chain));
  }
  const auto added = Fingerprints(run.chain, run.count, in);
  const Run oldest = held_.size() >= kRunsHeld ? held_.front() : Run();
  const auto removed = Fingerprints(oldest.chain, oldest.count, out);
  const Clock::time_point begin = Clock::now();
  filled_.AddRun(slot_, added, std::nullopt);
  if (!removed.empty()) filled_.RemoveRun(slot_, removed);
  spent_ += SecondsSince(begin);
  held_.push_back(run);
  if (!removed.empty()) held_.pop_front();
  return added.size() + removed.size();
}

double Churn::Ceiling(double seconds) {
  for (size_t i = 0; i < 2 * kRunsHeld; ++i) Turn();
  spent_ = 0;
  uint64_t changes = 0;
  while (spent_ < seconds) changes += Turn();
  const Clock::time_point begin = Clock::now();
  while (filled_.index.Step()) {
  }
  return static_cast<double>(changes) / (spent_ + SecondsSince(begin));
}

void Churn::Start(double per_second) {
  stop_ = false;
  done_ = 0;
  started_ = Clock::now();
  thread_ = std::thread([this, per_second] { Loop(per_second); });
}

double Churn::Stop() {
  if (!thread_.joinable()) return 0;
  stop_ = true;
  thread_.join();
  return static_cast<double>(done_) / SecondsSince(started_);
}

void Churn::Loop(double per_second) {
  prctl(PR_SET_TIMERSLACK, 1);
  while (!stop_) {
    const auto due = static_cast<uint64_t>(SecondsSince(started_) * per_second);
    while (done_ < due && !stop_) done_ += Turn();
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace stem::bench
