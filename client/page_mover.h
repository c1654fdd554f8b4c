// Moves blocks between the tier and an engine's own pages, on threads of its own, so that an engine whose loop is written
// in Python never copies. A payload is cut along the engine's pages: [plane][page][bytes], a plane being one layer, or K or
// V of one (proto/FORMAT.md, "Canonical blocks", opaque pages). Bytes go straight from the mapped slot into the page, and
// from the page into staging. Hybrid models have a block table for each group of layers, and one or several parts of a block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/cache_client.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {

// Pages of one layer (K and V together, or one of them) in host memory. Page p is `page_bytes` at base + p * stride_bytes.
struct EnginePlane {
  std::byte* base = nullptr;
  uint64_t page_bytes = 0;
  uint64_t stride_bytes = 0;
  uint32_t table = 0;  // the block table whose pages it has
};

// Planes that are one part of the namespace.
struct EnginePart {
  uint32_t id = 0;
  std::vector<EnginePlane> planes;  // in the order of the payload
};

// An engine's cache. Borrowed: the memory must live until the mover is destroyed.
struct EnginePages {
  std::vector<EnginePart> parts;          // ids ascend
  uint32_t page_count = 0;                // ids of pages are below it
  std::vector<uint32_t> pages_per_block;  // of each block table: pages that hold one block's tokens

  uint64_t block_bytes(const EnginePart& part) const;
  uint32_t pages_of_all_tables() const;  // that hold one block
};

struct MoveJob {
  static constexpr int32_t kSkip = -1;

  bool save = false;            // pages -> tier; else tier -> pages
  std::vector<BlockKey> keys;   // of the chain, from its first block to the last one to move
  uint32_t first_block = 0;     // blocks before it stay as they are
  // Page ids, [table][block from first_block on][page]. A load may skip pages that the engine has already, or does not need; a save those
  // that it has no longer: of such a block it leaves out the part.
  std::vector<int32_t> pages;
  absl::Duration timeout = absl::Seconds(5);
  std::string request;  // for logs; 0..128 bytes
  std::string traceparent;
  std::optional<Probe> probe;  // of the chain, for the node
  Conversation conversation;   // as in AcquireOptions
};

struct MoveResult {
  uint64_t ticket = 0;
  bool save = false;
  absl::Status status;       // of the first block that was not moved
  uint32_t blocks_moved = 0;  // load: leading blocks, from first_block on, whole and proved in the pages. Save: committed, each part counts
  uint32_t blocks_held = 0;   // save: held by the node already, or being published by another
  uint32_t blocks_refused = 0;
  std::array<uint32_t, 5> blocks_from = {};  // load, by v1::Source
  uint64_t bytes = 0;         // copied; those of skipped pages are not
  absl::Duration took;        // from the start of the work; waiting in the queue is not part of it
};

// Threads: any. Loads and saves each have a queue and threads of their own, so a save never delays a load.
class PageMover {
 public:
  static constexpr size_t kJobsMax = 1024;  // waiting, of each kind

  // `client` is borrowed and must outlive the mover. Errors: InvalidArgument (planes that are null, overlap in their stride,
  // or do not make up the payload of their part).
  static absl::StatusOr<std::unique_ptr<PageMover>> Create(CacheClient& client, EnginePages pages, uint32_t load_threads = 1,
                                                           LocalProof proof = LocalProof::kFull);
  // Ends the threads after the jobs that run; jobs that wait are dropped.
  ~PageMover();
  PageMover(const PageMover&) = delete;
  PageMover& operator=(const PageMover&) = delete;

  // A ticket above 0; its result comes by Poll. Errors: InvalidArgument (sizes, a page id), ResourceExhausted (kJobsMax).
  absl::StatusOr<uint64_t> Submit(MoveJob job);
  // The same in the caller's thread, at once.
  MoveResult Run(const MoveJob& job);
  // Results of what ended since the last call, oldest first. Never waits.
  std::vector<MoveResult> Poll();
  // Submitted and not yet told by Poll.
  size_t outstanding() const;

 private:
  struct Queued {
    uint64_t ticket = 0;
    MoveJob job;
  };

  PageMover(CacheClient& client, EnginePages pages, LocalProof proof);
  absl::Status Check(const MoveJob& job) const;
  void Work(bool saves);
  void Load(const MoveJob& job, absl::Time deadline, MoveResult& result);
  absl::Status LoadPart(const Stem& stem, const MoveJob& job, uint32_t block, size_t part, absl::Time deadline, MoveResult& result);
  void Save(const MoveJob& job, absl::Time deadline, MoveResult& result);
  void SaveRun(const MoveJob& job, const EnginePart& part, size_t first, size_t end, absl::Time deadline, MoveResult& result);

  CacheClient& client_;
  const EnginePages pages_;
  const std::vector<uint32_t> part_ids_;
  const LocalProof proof_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Queued> queues_[2] ABSL_GUARDED_BY(mutex_);  // loads, saves
  std::vector<MoveResult> results_ ABSL_GUARDED_BY(mutex_);
  size_t outstanding_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t next_ticket_ ABSL_GUARDED_BY(mutex_) = 1;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace stem
