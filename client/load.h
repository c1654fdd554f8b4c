// Copies the blocks of a stem into the caller's memory, each proved, waiting for those that have not landed.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "client/deadline.h"
#include "client/executor.h"
#include "client/stem.h"
#include "client/stem_state.h"
#include "client/timers.h"
#include "proto/mutex.h"
#include "proto/status.h"

namespace stem {

// Of every `count` destinations, the one at `index`: several loaders share a load.
struct LoadShare {
  size_t index = 0;
  size_t count = 1;
};

// One load, in steps that never wait. Threads: one at a time.
class Loader {
 public:
  // `destinations`: one span per position from first_block on; borrowed, with the memory they name.
  Loader(std::shared_ptr<StemState> stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
         LocalProof proof, LoadShare share = {});

  // Copies until all is loaded, something failed, or a position has not landed: that position, else nothing.
  std::optional<uint32_t> Step(const Deadline& deadline);
  // Ends the load where it is. `why` is not OK.
  void Fail(absl::Status why) { status_ = std::move(why); }
  // Its blocks_loaded: how far this share got, as if the other shares had got as far.
  LoadResult result() const;
  StemState& stem() const { return *stem_; }

 private:
  absl::Status Check() const;
  absl::Status Copy(uint32_t position, const StemState::Place& place, std::span<std::byte> destination);

  const std::shared_ptr<StemState> stem_;
  const uint32_t first_block_;
  const std::span<const std::span<std::byte>> destinations_;
  const LocalProof proof_;
  const size_t stride_;
  size_t next_;  // index in destinations_
  std::vector<uint64_t> chunk_hashes_;
  absl::Status status_;
};

// Steps to the end, by `threads` at once, the caller's and the executor's; fewer where there is less than a MiB for each. The executor's never wait:
// a share that has to, or that they do not come to, is the caller's again. `load`: makes a share of it.
LoadResult LoadShared(const std::function<Loader(LoadShare)>& load, uint64_t bytes, uint32_t threads, Executor& executor,
                      const Deadline& deadline);

// See CacheClient::LoadRanges.
absl::Status LoadRanges(StemState& stem, uint32_t position, std::span<const PayloadRange> ranges, const Deadline& deadline);

// Steps on the executor; holds none of its threads while it waits. Its timer keeps it until `done` ran.
class LoadTask : public std::enable_shared_from_this<LoadTask> {
 public:
  LoadTask(Loader loader, const Deadline& deadline, Executor& executor, Timers& timers,
           std::function<void(LoadResult)> done);

  // False when the executor refuses; then `done` never runs.
  bool Start();

 private:
  enum class Phase { kIdle, kRunning, kRunAgain, kDone };

  void Wake();
  void Run();
  bool StepOnce();  // true when the load has ended

  Loader loader_;
  const Deadline deadline_;
  Executor& executor_;
  Timers& timers_;
  const std::function<void(LoadResult)> done_;

  Mutex mutex_;
  Phase phase_ ABSL_GUARDED_BY(mutex_) = Phase::kIdle;
  std::optional<Timers::Id> timer_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
