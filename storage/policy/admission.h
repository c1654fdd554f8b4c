// Who is worth a write when it leaves DRAM for the SSD: a block that nobody will share again should not wear the disk.
// Pure like the eviction policies, and not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "storage/policy/block_history.h"
#include "storage/policy/eviction.h"

namespace stem {

enum class AdmissionKind : uint8_t {
  kAlways,
  kSecondTouch,  // used twice at least
  kShared,       // used by more than one conversation
  kStem,         // by what was learned of blocks of its class and age, likely enough to be used again
};

absl::string_view NameOf(AdmissionKind kind);
// Errors: InvalidArgument that names the right words.
absl::StatusOr<AdmissionKind> ParseAdmission(absl::string_view name);
std::vector<AdmissionKind> AllAdmissions();

class Admission {
 public:
  // `ssd_blocks`: about what the SSD tier holds.
  Admission(AdmissionKind kind, size_t ssd_blocks);

  // A request uses a block; as EvictionPolicy hears of it, whether or not the block is held.
  void Use(const BlockInfo& info);
  // As EvictionPolicy hears of it.
  void EndConversation(uint64_t conversation);
  // Whether the block that leaves DRAM is worth a write.
  bool Admits(uint64_t key);

 private:
  void EndRequest();

  const AdmissionKind kind_;
  const uint64_t refresh_uses_;
  std::unique_ptr<BlockHistory> history_;  // null when every block is admitted
  std::vector<BlockInfo> chain_;           // of the request that is being told of
  uint64_t refreshed_at_ = 0;
};

}  // namespace stem
