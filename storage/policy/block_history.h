// What the node remembers of blocks, held or not: who used them, when, and how. From it each use of a block is put into a class whose
// chance of being used again is learned (reuse_model.h).
//
// What tells classes apart: which turn of a conversation the request was (it goes on with one when it extends the very prompt that
// its known blocks were used for last), how long after the turn before, by how much the prompt grew, how long it is; or, of a block
// that other conversations used too, by how many and how often.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "storage/policy/eviction.h"
#include "storage/policy/reuse_model.h"

namespace stem {

class BlockHistory {
 public:
  struct Story {
    uint64_t last = 0;           // time of its last use in the model
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

  // Of a remembered block: that it is used again before it is forgotten.
  float Chance(const Story& story) const {
    return model_.chance(story.cls, model_.BinOf(model_.now() - story.last));
  }

  const ReuseModel& model() const { return model_; }
  // Works what was learned into the model's ranks.
  void Refresh() { model_.Refresh(); }

 private:
  struct Prompt {
    uint32_t blocks = 0;
    uint32_t known = 0;  // leading blocks that had been used before
    uint32_t turn = 0;   // of its conversation
    uint64_t gap = 0;    // since the turn before; 0 = the first turn
  };
  Prompt Recognize(std::span<const BlockInfo> chain) const;
  static uint16_t ClassOf(const Story& story, const Prompt& prompt, bool last);
  void ChooseSpeakers(std::span<const BlockInfo> chain);
  void Forget();

  ReuseModel model_;
  absl::flat_hash_map<uint64_t, Story> stories_;          // by key
  std::deque<std::pair<uint64_t, uint64_t>> by_last_use_;  // time, key; stale where the story says otherwise
  std::vector<Story*> used_;                              // scratch of Use
  std::vector<uint32_t> speakers_;                        // by class: place in the chain + 1; scratch of Use
};

}  // namespace stem
