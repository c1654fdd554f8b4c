#include "storage/policy/admission.h"

#include <algorithm>

#include "storage/policy/name_table.h"

namespace stem {
namespace {

constexpr NameTable<AdmissionKind, 4> kNames = {"admission", {
    {AdmissionKind::kAlways, "always"},
    {AdmissionKind::kSecondTouch, "second-touch"},
    {AdmissionKind::kShared, "shared"},
    {AdmissionKind::kStem, "stem"},
}};

constexpr uint64_t kHorizonUsesMin = 1 << 18;
constexpr uint64_t kHorizonCapacities = 4;
constexpr uint64_t kRefreshUses = 4000;
// A block must be used again with this chance. Reading costs a tenth of computing at least, and a write wears the disk.
constexpr float kWorthAChance = 0.05F;

}  // namespace

absl::string_view NameOf(AdmissionKind kind) { return kNames.NameOf(kind); }
absl::StatusOr<AdmissionKind> ParseAdmission(absl::string_view name) { return kNames.Parse(name); }
std::vector<AdmissionKind> AllAdmissions() { return kNames.All(); }

Admission::Admission(AdmissionKind kind, size_t ssd_blocks)
    : kind_(kind), refresh_uses_(std::max<uint64_t>(kRefreshUses, ssd_blocks / 16)) {
  if (kind == AdmissionKind::kAlways) return;
  history_ = std::make_unique<BlockHistory>(std::max<uint64_t>(kHorizonCapacities * ssd_blocks, kHorizonUsesMin));
}

void Admission::Use(const BlockInfo& info) {
  if (history_ == nullptr) return;
  if (!chain_.empty() && chain_.back().request != info.request) EndRequest();
  chain_.push_back(info);
}

void Admission::EndRequest() {
  history_->Use(chain_);
  chain_.clear();
  if (history_->model().now() - refreshed_at_ < refresh_uses_) return;
  refreshed_at_ = history_->model().now();
  history_->Refresh();
}

void Admission::EndConversation(uint64_t conversation) {
  if (history_ == nullptr) return;
  EndRequest();
  history_->EndConversation(conversation);
}

bool Admission::Admits(uint64_t key) {
  if (history_ == nullptr) return true;
  EndRequest();
  const BlockHistory::Story* const story = history_->Find(key);
  if (story == nullptr) return false;
  switch (kind_) {
    case AdmissionKind::kAlways: return true;
    case AdmissionKind::kSecondTouch: return story->uses > 1;
    case AdmissionKind::kShared: return story->uses > story->turn + 1;
    case AdmissionKind::kStem: return history_->Chance(*story) >= kWorthAChance;
  }
  return true;
}

}  // namespace stem
