// Doubly linked lists over block ids: an id is in one list at most. What most policies are made of. O(1), arrays by id.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "storage/policy/eviction.h"

namespace stem {

class BlockLists {
 public:
  explicit BlockLists(size_t lists) : ends_(lists) {}

  size_t lists() const { return ends_.size(); }
  void AddLists(size_t lists) { ends_.resize(ends_.size() + lists); }

  bool Contains(BlockId id) const { return id < links_.size() && links_[id].list != kNoList; }
  // Of a contained id.
  uint32_t ListOf(BlockId id) const { return links_[id].list; }
  BlockId Next(BlockId id) const { return links_[id].next; }
  // kNoBlock when the list is empty.
  BlockId Front(uint32_t list) const { return ends_[list].front; }
  BlockId Back(uint32_t list) const { return ends_[list].back; }
  size_t size(uint32_t list) const { return ends_[list].size; }
  bool empty(uint32_t list) const { return ends_[list].size == 0; }

  // Puts an id that is in no list at the end, or at the front, of one.
  void PushBack(uint32_t list, BlockId id) {
    if (id >= links_.size()) links_.resize(id + size_t{1});
    Ends& ends = ends_[list];
    links_[id] = {.previous = ends.back, .next = kNoBlock, .list = list};
    (ends.back == kNoBlock ? ends.front : links_[ends.back].next) = id;
    ends.back = id;
    ++ends.size;
  }
  void PushFront(uint32_t list, BlockId id) {
    if (id >= links_.size()) links_.resize(id + size_t{1});
    Ends& ends = ends_[list];
    links_[id] = {.previous = kNoBlock, .next = ends.front, .list = list};
    (ends.front == kNoBlock ? ends.back : links_[ends.front].previous) = id;
    ends.front = id;
    ++ends.size;
  }
  // Takes a contained id out of its list.
  void Unlink(BlockId id) {
    const Link link = links_[id];
    Ends& ends = ends_[link.list];
    (link.previous == kNoBlock ? ends.front : links_[link.previous].next) = link.next;
    (link.next == kNoBlock ? ends.back : links_[link.next].previous) = link.previous;
    links_[id].list = kNoList;
    --ends.size;
  }
  void MoveToBack(uint32_t list, BlockId id) {
    Unlink(id);
    PushBack(list, id);
  }

 private:
  static constexpr uint32_t kNoList = ~uint32_t{0};
  struct Link {
    BlockId previous = kNoBlock;
    BlockId next = kNoBlock;
    uint32_t list = kNoList;
  };
  struct Ends {
    BlockId front = kNoBlock;
    BlockId back = kNoBlock;
    size_t size = 0;
  };

  std::vector<Link> links_;  // by id
  std::vector<Ends> ends_;   // by list
};

}  // namespace stem
