#include "storage/policy/reuse_rank.h"

#include <algorithm>
#include <bit>

namespace stem {
namespace {

void Set(std::vector<uint64_t>& bits, uint32_t bit) { bits[bit / 64] |= uint64_t{1} << (bit % 64); }

}  // namespace

ReuseRank::ReuseRank(const BlockHistory& history)
    : model_(history.model()),
      history_(history),
      leaves_(2 * size_t{model_.states()} + 1),
      deferred_(static_cast<uint32_t>(leaves_.lists() - 1)),
      by_list_((leaves_.lists() + 63) / 64),
      by_place_(by_list_.size()) {}

void ReuseRank::Admit(BlockId id, const BlockInfo& info) {
  const size_t ids = std::max(id, info.parent == kNoBlock ? 0 : info.parent) + size_t{1};
  if (ids > blocks_.size()) blocks_.resize(ids);
  blocks_[id].held = true;
  blocks_[id].parent = info.parent;
  if (info.parent != kNoBlock && blocks_[info.parent].children++ == 0) Delist(info.parent);
  Touch(id, info);
}

void ReuseRank::Touch(BlockId id, const BlockInfo& info) {
  if (id >= blocks_.size() || !blocks_[id].held) return;
  const BlockHistory::Story* const story = history_.Find(info.key);
  Block& block = blocks_[id];
  block.cls = story == nullptr ? 0 : story->cls;
  block.last = story == nullptr ? 0 : story->last;
  block.conversation = story == nullptr ? info.conversation.id : story->conversation;
  block.moved = info.copied && !BlockHistory::IsShared(block.cls);
  Delist(id);
  if (block.children == 0) Enlist(id);
}

void ReuseRank::Enlist(BlockId id) {
  Block& block = blocks_[id];
  block.cls = history_.ClassNow(block.cls, block.conversation);
  const auto list = static_cast<uint32_t>((block.moved ? model_.states() : 0) + block.cls * model_.bins() +
                                          model_.BinOf(model_.now() - block.last));
  // A parent comes back when its last child left, often the oldest of its list.
  const BlockId front = leaves_.Front(list);
  if (front != kNoBlock && blocks_[front].last >= block.last) {
    leaves_.PushFront(list, id);
  } else {
    leaves_.PushBack(list, id);
  }
  Set(by_list_, list);
  Set(by_place_, model_.place(list));
}

void ReuseRank::Delist(BlockId id) {
  if (leaves_.Contains(id)) leaves_.Unlink(id);
}

void ReuseRank::Remove(BlockId id) {
  if (id >= blocks_.size() || !blocks_[id].held) return;
  Delist(id);
  blocks_[id].held = false;
  const BlockId parent = blocks_[id].parent;
  if (parent != kNoBlock && --blocks_[parent].children == 0 && blocks_[parent].held) Enlist(parent);
}

std::optional<BlockId> ReuseRank::Victim() {
  for (size_t word = 0; word < by_place_.size(); ++word) {
    while (by_place_[word] != 0) {
      const auto place = static_cast<uint32_t>(word * 64 + std::countr_zero(by_place_[word]));
      const uint32_t list = model_.state_at(place);
      if (!leaves_.empty(list)) return leaves_.Front(list);
      by_place_[word] &= by_place_[word] - 1;
    }
  }
  if (!leaves_.empty(deferred_)) return leaves_.Front(deferred_);
  return std::nullopt;
}

void ReuseRank::Defer(BlockId id) {
  if (leaves_.Contains(id)) leaves_.MoveToBack(deferred_, id);
}

void ReuseRank::Age() {
  const auto bins = static_cast<uint32_t>(model_.bins());
  for (size_t word = 0; word < by_list_.size(); ++word) {
    for (uint64_t left = by_list_[word]; left != 0; left &= left - 1) {
      const auto list = static_cast<uint32_t>(word * 64 + std::countr_zero(left));
      const uint32_t bin = list % bins;
      while (bin + 1 < bins && !leaves_.empty(list)) {
        const BlockId id = leaves_.Front(list);
        if (model_.now() - blocks_[id].last < model_.BinStart(bin + 1)) break;
        Delist(id);
        Enlist(id);
      }
      if (leaves_.empty(list)) by_list_[word] &= ~(uint64_t{1} << (list % 64));
    }
  }
}

void ReuseRank::Reorder() {
  std::fill(by_place_.begin(), by_place_.end(), 0);
  for (uint32_t list = 0; list < deferred_; ++list) {
    if (!leaves_.empty(list)) Set(by_place_, model_.place(list));
  }
}

}  // namespace stem
