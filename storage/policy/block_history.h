// What the node remembers of blocks, held or not: who used them, when, and how. From it each use of a block is put into a class whose
// chance of being used again is learned (reuse_model.h).
//
// What tells classes apart: which turn of a conversation the request was (it goes on with one when it extends the very prompt that
// its known blocks were used for last), how long after the turn before, by how much the prompt grew, how long it is; or, of a block
// that other conversations used too, by how many and how often. Engines may tell which conversation a request belongs to, and
// whether it will resume or has ended: then that is not guessed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "storage/policy/eviction.h"
#include "storage/policy/ghost_counts.h"
#include "storage/policy/reuse_model.h"

namespace stem {

class BlockHistory {
 public:
  struct Story {
    uint64_t last = 0;           // time of its last use in the model
    uint64_t conversation = 0;   // of the last use that told it; 0 = none did
    uint64_t sample = 0;         // number of that use among the model's samples; 0 = it is none
    uint32_t uses = 0;
    uint32_t turn = 0;           // of that request, from 0
    uint32_t prompt_blocks = 0;  // of that request
    float gap = 0;               // between its uses, smoothed
    uint16_t cls = 0;
  };

  // Remembers the last `horizon_uses` uses of blocks.
  explicit BlockHistory(uint64_t horizon_uses);

  // The blocks of one request, or of what is known of it, in chain order.
  void Use(std::span<const BlockInfo> chain);
  // Null when forgotten.
  const Story* Find(uint64_t key) const;

  // Nothing is expected of blocks that only this conversation used, until it is used again after all.
  void EndConversation(uint64_t conversation) { ended_.Put(conversation, 1); }
  // The class of a block that had class `cls` when its conversation used it.
  uint16_t ClassNow(uint16_t cls, uint64_t conversation) const;
  // Whether a class is of blocks that several conversations used.
  static bool IsShared(uint16_t cls);

  // Of a remembered block: that it is used again before it is forgotten.
  float Chance(const Story& story) const {
    return model_.chance(ClassNow(story.cls, story.conversation), model_.BinOf(model_.now() - story.last));
  }

  const ReuseModel& model() const { return model_; }
  // Works what was learned into the model's ranks.
  void Refresh() { model_.Refresh(); }

 private:
  struct Prompt {
    uint32_t blocks = 0;
    uint32_t known = 0;  // leading blocks that had been used before
    uint32_t turn = 0;   // of its conversation
    uint64_t pause = 0;  // since the turn before, in uses; 0 = the first turn
  };
  Prompt Recognize(std::span<const BlockInfo> chain) const;
  static uint16_t ClassOf(const Story& story, const Prompt& prompt, Outlook outlook, bool last);
  void ChooseSpeakers(std::span<const BlockInfo> chain);
  void Forget();

  ReuseModel model_;
  absl::flat_hash_map<uint64_t, Story> stories_;          // by key
  std::deque<std::pair<uint64_t, uint64_t>> by_last_use_;  // time, key; stale where the story says otherwise
  GhostCounts ended_;                                     // conversations
  std::vector<Story*> used_;                              // scratch of Use
  std::vector<uint32_t> speakers_;                        // by class: place in the chain + 1; scratch of Use
};

}  // namespace stem
