#include "tests/support/faulty_spill_store.h"

namespace stem {

void FaultySpillStore::Fail(Call call, const absl::Status& error, int times) {
  const MutexLock lock(mutex_);
  faults_[call] = {error, times};
}

absl::Status FaultySpillStore::Draw(Call call) {
  const MutexLock lock(mutex_);
  if (faults_[call].times == 0) return absl::OkStatus();
  --faults_[call].times;
  return faults_[call].error;
}

void FaultySpillStore::HoldPuts() {
  const MutexLock lock(mutex_);
  holding_ = true;
}

void FaultySpillStore::OpenPuts() {
  const MutexLock lock(mutex_);
  holding_ = false;
  changed_.NotifyAll();
}

void FaultySpillStore::AwaitHeldPuts(int count) {
  const MutexLock lock(mutex_);
  while (held_ < count) changed_.Wait(mutex_);
}

absl::Status FaultySpillStore::Put(std::span<const SpillWrite> writes) {
  {
    const MutexLock lock(mutex_);
    ++held_;
    changed_.NotifyAll();
    while (holding_) changed_.Wait(mutex_);
    --held_;
  }
  STEM_TRY(Draw(kPut));
  return inner_.Put(writes);
}

void FaultySpillStore::Get(std::span<SpillRead> reads) {
  for (SpillRead& read : reads) {
    read.status = Draw(kRead);
    if (read.status.ok()) inner_.Get(std::span(&read, 1));
  }
}

absl::Status FaultySpillStore::Remove(std::span<const SpillRecordId> records) {
  STEM_TRY(Draw(kRemove));
  return inner_.Remove(records);
}

}  // namespace stem
