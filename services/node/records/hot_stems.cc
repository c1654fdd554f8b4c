#include "services/node/records/hot_stems.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace stem {
namespace {

constexpr double kRescaleAt = 1e100;
constexpr double kSameTraffic = 0.95;  // a longer stem with this share of a shorter one's says it all

}  // namespace

HotStems::HotStems(const Options& options) : options_(options) { entries_.reserve(options.stems_max); }

void HotStems::Request(const NamespaceFingerprint& space, std::span<const BlockKey> keys, size_t found, absl::Time now) {
  SetNow(now);
  std::optional<BlockKey> parent;
  const auto count = [&](uint32_t blocks) {
    const BlockKey& key = keys[blocks - 1];
    const uint32_t index = Count({space, key}, blocks, parent, found >= blocks);
    parent = key;
    return index;
  };
  for (uint32_t blocks = 1; blocks <= keys.size(); blocks *= 2) {
    const uint32_t index = count(blocks);
    FindBranch(index, keys);
    const std::array<Branch, kBranches> branches = entries_[index].branches;  // as newcomers may take its place
    for (const Branch& branch : branches) {
      if (branch.blocks == 0) break;
      if (branch.blocks <= keys.size() && keys[branch.blocks - 1] == branch.key) count(branch.blocks);
    }
  }
}

uint32_t HotStems::Count(const BlockName& name, uint32_t blocks, const std::optional<BlockKey>& parent, bool found) {
  const auto known = index_.find(name);
  uint32_t index = 0;
  if (known != index_.end()) {
    index = known->second;
  } else {
    index = Take();
    index_.emplace(name, index);
    entries_[index].name = name;
    entries_[index].blocks = blocks;
  }
  Entry& entry = entries_[index];
  entry.parent = parent;
  ++entry.requests;
  entry.weight += weight_now_;
  if (found) entry.found += weight_now_;
  entry.last = now_;
  return index;
}

uint32_t HotStems::Take() {
  if (entries_.size() < options_.stems_max) {
    entries_.emplace_back();
    return static_cast<uint32_t>(entries_.size() - 1);
  }
  uint32_t coldest = kNone;
  for (int i = 0; i < kTries; ++i) {
    random_ ^= random_ << 13;  // xorshift64
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const auto index = static_cast<uint32_t>(random_ % entries_.size());
    if (coldest == kNone || entries_[index].weight < entries_[coldest].weight) coldest = index;
  }
  index_.erase(entries_[coldest].name);
  segment_keys_ -= entries_[coldest].segment.size();
  entries_[coldest] = {};
  return coldest;
}

void HotStems::FindBranch(uint32_t index, std::span<const BlockKey> keys) {
  Entry& entry = entries_[index];
  if (entry.segment.empty()) return Remember(entry, keys);
  const std::span<const BlockKey> rest = keys.subspan(entry.blocks);
  const size_t most = std::min(rest.size(), entry.segment.size());
  const auto parted = static_cast<uint32_t>(std::mismatch(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(most), entry.segment.begin()).first -
                                            rest.begin());
  if (parted == 0 || parted == most) return;
  const Branch branch{.blocks = entry.blocks + parted, .key = rest[parted - 1]};
  // Ascending; the longest makes room.
  const auto place = std::find_if(entry.branches.begin(), entry.branches.end(),
                                  [&](const Branch& each) { return each.blocks == 0 || each.blocks >= branch.blocks; });
  if (place == entry.branches.end() || place->blocks == branch.blocks) return;
  std::move_backward(place, entry.branches.end() - 1, entry.branches.end());
  *place = branch;
}

void HotStems::Remember(Entry& entry, std::span<const BlockKey> keys) {
  if (entry.requests < 2) return;  // most stems are asked once
  const size_t first = entry.blocks;
  const size_t end = std::min<size_t>({keys.size(), size_t{2} * entry.blocks - 1, first + kSegmentKeysMax});
  if (end <= first || segment_keys_ + (end - first) > options_.segment_keys_max) return;
  entry.segment.assign(keys.begin() + static_cast<ptrdiff_t>(first), keys.begin() + static_cast<ptrdiff_t>(end));
  segment_keys_ += entry.segment.size();
}

// Instead of all weights, that of what comes is changed.
void HotStems::SetNow(absl::Time now) {
  if (entries_.empty()) begun_ = now;
  now_ = now;
  weight_now_ = std::exp2((now - begun_) / options_.half_life);
  if (weight_now_ < kRescaleAt) return;
  for (Entry& entry : entries_) {
    entry.weight /= weight_now_;
    entry.found /= weight_now_;
  }
  begun_ = now;
  weight_now_ = 1;
}

double HotStems::Decay(absl::Time now) const { return std::exp2((begun_ - now) / options_.half_life); }

std::vector<HotStems::Stem> HotStems::Read(size_t stems_max, const std::optional<BlockKey>& below, absl::Time now) const {
  // Longest first: a stem's parent comes after it.
  std::vector<const Entry*> entries;
  for (const Entry& entry : entries_) entries.push_back(&entry);
  std::sort(entries.begin(), entries.end(), [](const Entry* a, const Entry* b) { return a->blocks > b->blocks; });
  const auto find = [&](const Entry& of, const std::optional<BlockKey>& key) -> const Entry* {
    if (!key.has_value()) return nullptr;
    const auto found = index_.find(BlockName{of.name.space, *key});
    return found == index_.end() ? nullptr : &entries_[found->second];
  };
  absl::flat_hash_map<const Entry*, bool> said;  // by a longer one
  for (const Entry* entry : entries) {
    const Entry* const parent = find(*entry, entry->parent);
    if (parent != nullptr && entry->weight >= kSameTraffic * parent->weight) said[parent] = true;
  }
  const auto follows = [&](const Entry* entry) {
    for (const Entry* at = entry; at != nullptr; at = find(*at, at->parent)) {
      if (at->parent == below) return true;
    }
    return false;
  };
  const double per_minute = Decay(now) * std::log(2.0) / absl::ToDoubleMinutes(options_.half_life);
  std::vector<Stem> stems;
  for (const Entry* entry : entries) {
    if (said.contains(entry) || (below.has_value() && !follows(entry))) continue;
    Stem stem{.space = entry->name.space, .key = entry->name.key, .parent = entry->parent, .blocks = entry->blocks};
    for (const Entry* at = find(*entry, stem.parent); at != nullptr && said.contains(at); at = find(*at, at->parent)) stem.parent = at->parent;
    stem.requests_per_minute = entry->weight * per_minute;
    stem.requests = entry->requests;
    stem.last_asked_ago = now - entry->last;
    stem.hit_fraction = entry->weight > 0 ? entry->found / entry->weight : 0;
    stems.push_back(stem);
  }
  std::stable_sort(stems.begin(), stems.end(), [](const Stem& a, const Stem& b) { return a.requests_per_minute > b.requests_per_minute; });
  if (stems.size() > stems_max) stems.resize(stems_max);
  return stems;
}

}  // namespace stem
