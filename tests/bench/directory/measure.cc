#include "tests/bench/directory/measure.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "proto/check.h"
#include "tests/bench/directory/shape.h"

namespace stem::bench {

TickScale TickScale::Measure() {
  TickScale scale;
  const Clock::time_point begin = Clock::now();
  const uint64_t first = TicksNow();
  while (SecondsSince(begin) < 0.02) {
  }
  const uint64_t last = TicksNow();
  scale.ns_per_tick = SecondsSince(begin) * 1e9 / static_cast<double>(last - first);
  std::vector<uint64_t> pairs(20'001);
  for (uint64_t& pair : pairs) {
    const uint64_t from = TicksNow();
    pair = TicksNow() - from;
  }
  std::nth_element(pairs.begin(), pairs.begin() + 10'000, pairs.end());
  scale.empty_ticks = pairs[10'000];
  return scale;
}

double Samples::At(double share) {
  if (ns_.empty()) return 0;
  const auto last = static_cast<double>(ns_.size() - 1);
  const auto nth = ns_.begin() + static_cast<ptrdiff_t>(share * last);
  std::nth_element(ns_.begin(), nth, ns_.end());
  return *nth;
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

void Longest::Add(double ns) {
  ++calls_;
  if (ns < kNoticedNs && calls_ % kLookEvery != 1) {
    longest_ = std::max(longest_, ns);
    return;
  }
  rusage use{};
  getrusage(RUSAGE_THREAD, &use);
  const bool interrupted = use.ru_nivcsw != switches_ && calls_ > 1;
  switches_ = use.ru_nivcsw;
  if (interrupted && ns >= kNoticedNs) {
    ++interrupted_;
  } else {
    longest_ = std::max(longest_, ns);
  }
}

ProcessUse UseOf(pid_t process) {
  const std::string folder = absl::StrCat("/proc/", process == 0 ? getpid() : process, "/");
  ProcessUse use;
  uint64_t pages = 0;
  std::ifstream(folder + "statm") >> pages >> pages;
  use.resident_bytes = pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::ifstream rollup(folder + "smaps_rollup");
  for (std::string line; std::getline(rollup, line);) {
    uint64_t kib = 0;
    std::string name;
    if (std::istringstream(line) >> name >> kib && name == "AnonHugePages:") use.huge_bytes = kib << 10;
  }
  std::ifstream stat(folder + "stat");
  std::string text;
  std::getline(stat, text);
  std::istringstream rest(text.substr(std::min(text.size(), text.rfind(')') + 2)));
  std::string skipped;
  for (int field = 3; field < 14; ++field) rest >> skipped;
  double user = 0, system = 0;
  rest >> user >> system;
  use.cpu_seconds = (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
  return use;
}

Floor::Floor(uint64_t bytes, bool huge) : words_(std::max<uint64_t>(bytes / 8, 512)) {
  void* memory = mmap(nullptr, words_ * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  STEM_CHECK(memory != MAP_FAILED);
  if (huge) madvise(memory, words_ * 8, MADV_HUGEPAGE);
  auto* const words = static_cast<uint64_t*>(memory);
  for (uint64_t i = 0; i < words_; ++i) words[i] = Mix(i);
  data_ = words;
}

Floor::~Floor() { munmap(const_cast<uint64_t*>(data_), words_ * 8); }

double Floor::DependentNs(uint64_t reads) {
  const Clock::time_point begin = Clock::now();
  uint64_t at = at_;
  for (uint64_t i = 0; i < reads; ++i) at = data_[Slot(at)] + i * 0x9E3779B97F4A7C15ULL;
  at_ = at;
  return SecondsSince(begin) * 1e9 / static_cast<double>(reads);
}

double Floor::IndependentNs(uint64_t reads) {
  const Clock::time_point begin = Clock::now();
  uint64_t sum = 0;
  for (uint64_t i = 0; i < reads; ++i) sum += data_[Slot(Mix(at_ + i))];
  at_ += sum;
  return SecondsSince(begin) * 1e9 / static_cast<double>(reads);
}

void Floor::Single(uint64_t reads, const TickScale& scale, Samples& samples) {
  for (uint64_t i = 0; i < reads; ++i) {
    const uint64_t slot = Slot(Mix(at_ + i));
    const uint64_t begin = TicksNow();
    const uint64_t value = data_[slot];
    samples.AddTicks(TicksNow() - begin, scale);
    at_ += value;
  }
}

}  // namespace stem::bench
