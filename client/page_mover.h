// Moves blocks between the tier and an engine's own pages (client/engine_pages.h), on threads of its own, so that an engine whose loop is
// written in Python never copies. Bytes go straight from the mapped slot into the page, and from the page into staging; where only a GPU can
// touch the pages, by way of pinned memory (client/page_exchange.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/time.h"
#include "client/cache_client.h"
#include "client/engine_pages.h"
#include "client/page_exchange.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {

struct MoveJob {
  bool save = false;            // pages -> tier; else tier -> pages
  std::vector<BlockKey> keys;   // of the chain, from its first block to the last one to move
  uint32_t first_block = 0;     // blocks before it stay as they are
  // Page ids, [table][block from first_block on][page]; kNoPage where a load is to leave out what the engine has already, or does not need,
  // and where a save has it no longer: of such a block it leaves out the part.
  std::vector<int32_t> pages;
  // Whether the engine's work that uses these pages until now has ended, where that runs on (EventBehind(...).Reached): asked again and again,
  // and none of them is touched before. Empty = it has.
  std::function<absl::StatusOr<bool>()> after;
  absl::Duration timeout = absl::Seconds(5);  // for that work too; what is queued on a GPU then is waited for
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
  uint64_t bytes = 0;         // copied; of pages that there are
  absl::Duration took;        // from the start of the work; waiting in the queue, or for the engine, is not part of it
};

// Threads: any. Loads and saves each have a queue and threads of their own, so a save never delays a load.
class PageMover {
 public:
  static constexpr size_t kJobsMax = 1024;  // waiting, of each kind

  // `client` is borrowed and must outlive the mover. Errors: as of CheckPages; InvalidArgument (threads); as of MakeGpuQueue, for pages on a GPU.
  static absl::StatusOr<std::unique_ptr<PageMover>> Create(CacheClient& client, EnginePages pages, uint32_t load_threads = 1,
                                                           LocalProof proof = LocalProof::kFull);
  // Ends the threads after the jobs that run; jobs that wait are dropped.
  ~PageMover();
  PageMover(const PageMover&) = delete;
  PageMover& operator=(const PageMover&) = delete;

  // A ticket above 0; its result comes by Poll. Errors: InvalidArgument (sizes, a page id), ResourceExhausted (kJobsMax).
  absl::StatusOr<uint64_t> Submit(MoveJob job);
  // The same in the caller's thread, at once; on a GPU one at a time.
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
  void Work(bool saves, PageExchange* exchange);
  // `exchange`: the thread's own, null when the pages are the host's.
  MoveResult Move(const MoveJob& job, PageExchange* exchange);
  // Errors: DeadlineExceeded, Cancelled (the mover ends), as of `after`.
  absl::Status AwaitEngine(const MoveJob& job, absl::Time deadline);
  BlockPages PagesOf(const MoveJob& job, size_t block) const;
  void Load(const MoveJob& job, PageExchange* exchange, absl::Time deadline, MoveResult& result);
  absl::Status LoadPart(const Stem& stem, const MoveJob& job, uint32_t block, size_t part, PageExchange* exchange, absl::Time deadline,
                        MoveResult& result);
  absl::Status Bring(const Stem& stem, uint32_t position, std::span<const PayloadRange> ranges, absl::Time deadline);
  void Save(const MoveJob& job, PageExchange* exchange, absl::Time deadline, MoveResult& result);
  void SaveRun(const MoveJob& job, const EnginePart& part, size_t first, size_t end, PageExchange* exchange, absl::Time deadline,
               MoveResult& result);
  // Writes the staging of `wanted`, of the blocks from `first` on.
  absl::Status Stage(const MoveJob& job, const EnginePart& part, size_t first, std::span<const WantedPayload> wanted, PageExchange* exchange);

  CacheClient& client_;
  const EnginePages pages_;
  const std::vector<uint32_t> part_ids_;
  const LocalProof proof_;
  std::vector<std::unique_ptr<PageExchange>> exchanges_;  // of each thread, where the pages are on a GPU

  Mutex run_mutex_;  // of Run's callers, of whom one moves at a time where pages are on a GPU
  std::unique_ptr<PageExchange> run_exchange_ ABSL_GUARDED_BY(run_mutex_);

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
