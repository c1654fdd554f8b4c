#include "services/directory/known_prompts.h"

#include <algorithm>

namespace stem {

KnownPrompts::KnownPrompts(size_t prompts_max)
    : buckets_count_(std::max<size_t>(prompts_max / kBucketEntries, 1)), buckets_(buckets_count_) {}

KnownPrompts::Bucket& KnownPrompts::BucketOf(const Probe& probe) const {
  __extension__ using Wide = unsigned __int128;
  return buckets_[static_cast<size_t>(static_cast<Wide>(probe.high) * buckets_count_ >> 64)];
}

void KnownPrompts::Learn(const PublishedCall& published) {
  MutexLock lock(mutex_);
  const auto known = numbers_.find(published.space);
  uint32_t number = known != numbers_.end() ? known->second : 0;
  if (number == 0) {
    if (spaces_.size() >= kNamespacesMax) return;
    spaces_.push_back({published.space, published.spec});
    number = numbers_[published.space] = static_cast<uint32_t>(spaces_.size());
  }
  for (const Probe& probe : published.probes) {
    Bucket& bucket = BucketOf(probe);
    const auto place = std::find_if(bucket.begin(), bucket.end() - 1, [&](const Entry& entry) {
      return entry.number == 0 || (entry.probe == probe.low && entry.number == number);
    });
    std::rotate(bucket.begin(), place, place + 1);
    bucket.front() = {.probe = probe.low, .number = number};
  }
}

const NamespaceSpec* KnownPrompts::SpecOf(const NamespaceFingerprint& space) const {
  const auto number = numbers_.find(space);
  return number == numbers_.end() ? nullptr : &spaces_[number->second - 1].spec;
}

std::vector<NamespaceSpec> KnownPrompts::FindElsewhere(const NamespaceFingerprint& asked, const Probe& probe) const {
  std::vector<NamespaceSpec> elsewhere;
  MutexLock lock(mutex_);
  for (const Entry& entry : BucketOf(probe)) {
    if (entry.number == 0 || entry.probe != probe.low) continue;
    const KnownSpace& space = spaces_[entry.number - 1];
    if (!(space.fingerprint == asked)) elsewhere.push_back(space.spec);
  }
  if (const NamespaceSpec* const spec = SpecOf(asked); spec != nullptr) {
    std::stable_sort(elsewhere.begin(), elsewhere.end(), [&](const NamespaceSpec& a, const NamespaceSpec& b) {
      return DifferencesOf(*spec, a).size() < DifferencesOf(*spec, b).size();
    });
  }
  return elsewhere;
}

void KnownPrompts::Label(const MatchCall& call, v1::MatchReply& reply) const {
  if (!call.probe.has_value() || reply.misses().empty() || reply.misses(0).first() != 0) return;
  v1::Miss& miss = *reply.mutable_misses(0);
  if (miss.cause() != v1::MISS_CAUSE_COLD && miss.cause() != v1::MISS_CAUSE_UNKNOWN) return;
  for (const NamespaceSpec& spec : FindElsewhere(call.space, *call.probe)) *reply.add_known_as() = ToMessage(spec);
  if (!reply.known_as().empty()) miss.set_cause(v1::MISS_CAUSE_INCOMPATIBLE);
}

v1::Difference KnownPrompts::DifferenceFrom(const NamespaceFingerprint& asked, const v1::MatchReply& reply) const {
  MutexLock lock(mutex_);
  const NamespaceSpec* const spec = SpecOf(asked);
  return spec == nullptr ? v1::Difference() : FirstDifference(*spec, reply.known_as());
}

}  // namespace stem
