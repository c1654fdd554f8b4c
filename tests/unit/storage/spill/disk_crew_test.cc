#include "storage/spill/disk_crew.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace stem {
namespace {

TEST(DiskCrew, EveryJobIsDoneOnceBeforeRunReturns) {
  DiskCrew crew(4);
  for (const size_t count : {0, 1, 2, 3, 100, 1000}) {
    std::vector<std::atomic<int>> done(count);
    crew.Run(count, [&](size_t i) { done[i].fetch_add(1); });
    for (const auto& times : done) EXPECT_EQ(times.load(), 1);
  }
}

TEST(DiskCrew, OneJobAloneStaysOnItsThread) {
  DiskCrew crew(2);
  std::thread::id where;
  crew.Run(1, [&](size_t) { where = std::this_thread::get_id(); });
  EXPECT_EQ(where, std::this_thread::get_id());
}

// As many jobs as threads and caller meet at once: none of them could end if they came one after the other.
TEST(DiskCrew, JobsRunAtOnce) {
  DiskCrew crew(3);
  std::atomic<int> here{0};
  crew.Run(4, [&](size_t) {
    here.fetch_add(1);
    while (here.load() < 4) std::this_thread::yield();
  });
  EXPECT_EQ(here.load(), 4);
}

TEST(DiskCrew, CallersAtOnceGetTheirOwnBack) {
  DiskCrew crew(3);
  std::vector<std::thread> callers;
  std::atomic<uint64_t> wrong{0};
  for (size_t caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&, caller] {
      for (size_t round = 0; round < 200; ++round) {
        std::vector<size_t> results(1 + (round + caller) % 20);
        crew.Run(results.size(), [&](size_t i) { results[i] = i + caller; });
        for (size_t i = 0; i < results.size(); ++i) wrong += results[i] == i + caller ? 0 : 1;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0u);
}

}  // namespace
}  // namespace stem
