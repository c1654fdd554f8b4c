// Copies what clients have read out of a host peer's memory into this node's pool, where the chain can be extended and the next reader needs
// no lease. The last in line: a run waits until no fetch has come for a moment, or it has grown old. What waits pins slots at its owner, so
// little may wait; of the rest it is remembered who holds it, for when its chain is to go on here.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "proto/mutex.h"
#include "services/node/peers/lent_run.h"
#include "services/node/records/metrics.h"
#include "services/runtime/log.h"

namespace stem {

// Threads: any, beside its own.
class Copier {
 public:
  struct Options {
    absl::Duration quiet = absl::Milliseconds(20);  // without a fetch, before copies are made
    absl::Duration patience = absl::Seconds(1);     // a run that waited so long is copied all the same
    uint32_t pool_share = 32;                       // one run waits, or as many as have a 32nd of the pool's slots
    size_t loans_blocks_max = 1 << 16;              // that are remembered beside those
    absl::Duration lease_wait_max = absl::Milliseconds(200);  // of CopyNow, for each run
    size_t runs_now_max = 64;                                 // of CopyNow
  };

  // Borrows all but the options.
  Copier(Options options, LentRuns& lent_runs, NodeMetrics& metrics, Logger& log);
  // What waits is dropped.
  ~Copier();
  Copier(const Copier&) = delete;
  Copier& operator=(const Copier&) = delete;

  // A fetch has come: copies wait.
  void NoteFetch() { last_fetch_.store(absl::GetCurrentTimeNanos(), std::memory_order_relaxed); }

  void Add(std::shared_ptr<LentRun> run);

  // True when something is known of `name`: it waits, or it is remembered who lent it.
  bool Knows(const BlockName& name);
  // Copies, at once and on the caller's thread, what was lent of the chain up to `name`. False when nothing is known of it, or it cannot be
  // by `deadline`.
  bool CopyNow(const BlockName& name, absl::Time deadline);

 private:
  struct Waiting {
    std::shared_ptr<LentRun> run;
    absl::Time since;
    size_t next = 0;  // block to copy
  };

  void Run();
  bool MayCopy(absl::Time since) const;
  // False when the rest of the run cannot be copied.
  bool CopyOne(const LentRun& run, size_t index, absl::Time deadline);
  // The run that holds `name`, leased again where it no longer waits. Null when none does.
  std::shared_ptr<LentRun> Find(const BlockName& name, absl::Time deadline);
  void Remember(const LentRun::Loan& loan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Options options_;
  LentRuns& lent_runs_;
  NodeMetrics& metrics_;
  Logger& log_;
  std::atomic<int64_t> last_fetch_{0};
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mutex_);
  std::deque<LentRun::Loan> loans_ ABSL_GUARDED_BY(mutex_);  // oldest first
  size_t loans_blocks_ ABSL_GUARDED_BY(mutex_) = 0;
  std::thread thread_;
};

}  // namespace stem
