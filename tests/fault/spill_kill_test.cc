// kill -9 in the middle of Put, a hundred times, in space that is used over and over: everything that was acknowledged is readable afterwards, round after round in the same
// directory. The store is only ever opened in child processes, so that this one stays free of RocksDB's threads.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "gtest/gtest.h"
#include "storage/spill/disk_spill_store.h"
#include "tests/support/spill_block.h"
#include "tests/support/temp_directory.h"

namespace stem {
namespace {

constexpr uint64_t kRounds = 100;
constexpr uint64_t kBlocksEach = 24;
constexpr uint64_t kLength = 30000;
constexpr uint64_t kBatchesHeld = 4;
// Room for little more than what is held, so that every batch goes where an older one was.
constexpr uint64_t kFileBytes = (kBatchesHeld + 2) * kBlocksEach * SpillPages(kLength) * kSpillPageBytes;

std::unique_ptr<DiskSpillStore> OpenOrExit(const std::string& path) {
  auto store = DiskSpillStore::Open({.directory = path, .free_bytes_min = 0, .file_bytes_max = kFileBytes});
  if (store.ok()) return *std::move(store);
  std::fprintf(stderr, "%s\n", store.status().ToString().c_str());
  _exit(2);
}

// Child: puts batch after batch from `first_batch`, removes the oldest, and says so after each. Ends by being killed.
[[noreturn]] void PutForEver(const std::string& path, int acknowledge_fd, uint64_t first_batch) {
  const auto store = OpenOrExit(path);
  for (uint64_t batch = first_batch;; ++batch) {
    std::vector<SpillBlock> blocks;
    for (uint64_t i = 0; i < kBlocksEach; ++i) blocks.emplace_back(batch * kBlocksEach + i, kLength);
    std::vector<SpillRecordId> old;
    for (uint64_t i = 0; i < kBlocksEach && batch >= kBatchesHeld; ++i) {
      old.push_back(SpillBlock::RecordOf((batch - kBatchesHeld) * kBlocksEach + i));
    }
    if (!store->Remove(old).ok() || !store->Put(WritesOf(blocks)).ok()) _exit(3);
    if (write(acknowledge_fd, "+", 1) != 1) _exit(4);
  }
}

// Child: 0 if the last of the first `batches` batches are whole, in the index and on their own. One less than are held: the
// next had perhaps begun and removed one.
[[noreturn]] void Verify(const std::string& path, uint64_t batches) {
  const auto store = OpenOrExit(path);
  absl::flat_hash_set<BlockName> indexed;
  if (!store->ForEach([&](const BlockMeta& meta) { indexed.insert(meta.name); }).ok()) _exit(5);
  const uint64_t first = batches >= kBatchesHeld ? batches - (kBatchesHeld - 1) : 0;
  for (uint64_t i = first * kBlocksEach; i < batches * kBlocksEach; ++i) {
    const SpillBlock block(i, kLength);
    if (!indexed.contains(block.name())) _exit(6);
    if (!SpillReading(*store, block.name(), kLength).Is(block)) _exit(7);
  }
  // A half-written batch may have left nothing, or whole blocks; Get proves them.
  for (const BlockName& name : indexed) {
    if (!SpillReading(*store, name, kLength).status().ok()) _exit(8);
  }
  if (indexed.size() > (kBatchesHeld + 1) * kBlocksEach) _exit(9);
  _exit(0);
}

int ExitCodeOf(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(SpillKill, EveryAcknowledgedBatchSurvivesKillDuringPut) {
  const TempDirectory directory;
  std::mt19937_64 random(20261123);
  uint64_t batches = 0;  // acknowledged, so far
  for (uint64_t round = 0; round < kRounds; ++round) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      PutForEver(directory.path(), ends[1], batches);
    }
    close(ends[1]);
    // One to three acknowledgements, then a moment that falls anywhere in the next Put.
    const uint64_t wanted = 1 + random() % 3;
    char byte = 0;
    for (uint64_t i = 0; i < wanted; ++i) {
      ASSERT_EQ(read(ends[0], &byte, 1), 1) << "the writer ended by itself in round " << round;
      ++batches;
    }
    usleep(static_cast<useconds_t>(random() % 8000));
    ASSERT_EQ(kill(child, SIGKILL), 0);
    ASSERT_EQ(ExitCodeOf(child), -SIGKILL);
    while (read(ends[0], &byte, 1) == 1) ++batches;  // acknowledged between the last read and the kill
    close(ends[0]);

    const pid_t verifier = fork();
    ASSERT_GE(verifier, 0);
    if (verifier == 0) Verify(directory.path(), batches);
    ASSERT_EQ(ExitCodeOf(verifier), 0) << "round " << round << ", " << batches << " batches acknowledged";
  }
}

}  // namespace
}  // namespace stem
