#include "tests/support/faulty_spill_store.h"

#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/memory_spill_store.h"
#include "tests/support/spill_block.h"

namespace stem {
namespace {

constexpr uint64_t kLength = 5000;

TEST(FaultySpillStore, FailsAsOftenAsToldAndThenWorks) {
  MemorySpillStore inner;
  FaultySpillStore store(inner);
  const SpillBlock block(1, kLength);
  store.Fail(FaultySpillStore::kPut, absl::ResourceExhaustedError("disk full"), 2);
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(absl::IsResourceExhausted(store.Put(std::vector<SpillWrite>{block.write()})));
    EXPECT_EQ(inner.stats().records, 0u);
  }
  EXPECT_TRUE(store.Put(std::vector<SpillWrite>{block.write()}).ok());

  store.Fail(FaultySpillStore::kRead, absl::UnavailableError("disk gone"), 1);
  EXPECT_TRUE(absl::IsUnavailable(SpillReading(store, block.name(), kLength).status()));
  EXPECT_TRUE(SpillReading(store, block.name(), kLength).Is(block));

  store.Fail(FaultySpillStore::kRemove, absl::UnavailableError("disk gone"), 1);
  EXPECT_TRUE(absl::IsUnavailable(store.Remove(std::vector<SpillRecordId>{block.record()})));
  EXPECT_TRUE(SpillReading(store, block.name(), kLength).Is(block));
}

TEST(FaultySpillStore, HeldPutReachesTheStoreOnlyAfterTheDoorOpens) {
  MemorySpillStore inner;
  FaultySpillStore store(inner);
  const SpillBlock block(1, kLength);
  store.HoldPuts();
  std::thread writer([&] { EXPECT_TRUE(store.Put(std::vector<SpillWrite>{block.write()}).ok()); });
  store.AwaitHeldPuts(1);
  EXPECT_EQ(inner.stats().records, 0u);
  store.OpenPuts();
  writer.join();
  EXPECT_EQ(inner.stats().records, 1u);
}

TEST(MemorySpillStore, FullStoreRefusesWithTheNumbersAndReadsGoOn) {
  MemorySpillStore store(12000);
  const SpillBlock block(1, kLength);
  ASSERT_TRUE(store.Put(std::vector<SpillWrite>{block.write()}).ok());
  const SpillBlock large(2, 8000);
  EXPECT_TRUE(absl::IsResourceExhausted(store.Put(std::vector<SpillWrite>{large.write()})));
  EXPECT_TRUE(SpillReading(store, block.name(), kLength).Is(block));
}

}  // namespace
}  // namespace stem
