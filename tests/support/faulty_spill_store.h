// A spill store that fails on demand, over one that works.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "proto/mutex.h"
#include "storage/spill/spill_store.h"

namespace stem {

// Threads: any; set faults up from the test's thread. Borrows `inner`.
class FaultySpillStore final : public SpillStore {
 public:
  explicit FaultySpillStore(SpillStore& inner) : inner_(inner) {}

  enum Call { kPut, kRead, kRemove };

  // The next `times` calls (of Get: the next `times` reads) fail with `error` and do not reach the inner store.
  void Fail(Call call, const absl::Status& error, int times);

  // Put calls wait at the door until OpenPuts(); what they hold is not in the inner store meanwhile.
  void HoldPuts();
  void OpenPuts();
  // Returns once `count` Put calls wait at the door.
  void AwaitHeldPuts(int count);

  absl::Status Put(std::span<const SpillWrite> writes) override;
  void Get(std::span<SpillRead> reads) override;
  absl::Status Remove(std::span<const SpillRecordId> records) override;
  absl::Status ForEach(absl::FunctionRef<void(const BlockMeta&)> visit) override { return inner_.ForEach(visit); }
  SpillStats stats() const override { return inner_.stats(); }

 private:
  struct Fault {
    absl::Status error;
    int times = 0;
  };

  // The error of the call that is due to fail, or OK.
  absl::Status Draw(Call call);

  SpillStore& inner_;
  Mutex mutex_;
  CondVar changed_;
  std::array<Fault, 3> faults_ ABSL_GUARDED_BY(mutex_);
  bool holding_ ABSL_GUARDED_BY(mutex_) = false;
  int held_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
