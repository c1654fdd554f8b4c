#include "services/node/records/acquire_outcome.h"

#include <algorithm>

#include "services/node/records/slot_runs.h"

namespace stem {

namespace v1 = ::stemcache::v1;

void AcquireOutcome::Miss(size_t first, size_t count, v1::MissCause cause) {
  const size_t end = std::min(first + count, words_.size());
  for (size_t block = first; block < end; ++block) words_[block] = static_cast<uint8_t>(kMissed + cause);
}

void AcquireOutcome::MissRest(v1::MissCause cause) {
  for (uint8_t& word : words_) {
    if (word == 0) word = static_cast<uint8_t>(kMissed + cause);
  }
}

AcquireOutcome::Counts AcquireOutcome::counts() const {
  Counts counts;
  for (const uint8_t word : words_) {
    if (word >= kMissed) {
      ++counts.misses.at(word - kMissed);
    } else {
      ++counts.hits.at(word);
    }
  }
  return counts;
}

google::protobuf::RepeatedPtrField<v1::Miss> AcquireOutcome::misses() const {
  google::protobuf::RepeatedPtrField<v1::Miss> runs;
  for (size_t block = 0; block < words_.size(); ++block) {
    if (words_[block] < kMissed) continue;
    AppendMiss(runs, static_cast<uint32_t>(block), 1, static_cast<v1::MissCause>(words_[block] - kMissed));
  }
  return runs;
}

}  // namespace stem
