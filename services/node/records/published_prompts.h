// Which prompts were published on this node, by the probes of their first tokens, and its namespaces: told to every directory, which says
// `incompatible` of a miss whose probe it knows under another namespace. The latest prompts are kept, each once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "proto/mutex.h"
#include "services/node/spaces/space_table.h"
#include "stemcache/v1/directory.pb.h"

namespace stem {

// Threads: any.
class PublishedPrompts {
 public:
  static constexpr size_t kPromptsMax = 65536;
  static constexpr size_t kPerHeartbeat = 4096;

  explicit PublishedPrompts(size_t prompts_max = kPromptsMax) : prompts_max_(prompts_max) {}

  // Both `space`s live as long as this.
  void Add(const Space& space);
  void Remember(const Space& space, const Probe& probe);

  // What a stream was told so far.
  struct Told {
    size_t spaces = 0;
    uint64_t prompts = 0;  // number of the last
  };
  // Adds to a heartbeat what came after `*told`, kPerHeartbeat prompts at most, and moves `*told` behind it.
  void Tell(Told* told, stemcache::v1::Heartbeat& heartbeat) const;

 private:
  struct Prompt {
    const Space* space = nullptr;
    Probe probe;

    friend bool operator==(const Prompt&, const Prompt&) = default;
    template <typename H>
    friend H AbslHashValue(H h, const Prompt& prompt) {
      return H::combine(std::move(h), prompt.space, prompt.probe);
    }
  };

  const size_t prompts_max_;
  mutable Mutex mutex_;
  std::vector<const Space*> spaces_ ABSL_GUARDED_BY(mutex_);
  std::deque<Prompt> prompts_ ABSL_GUARDED_BY(mutex_);  // the last is number last_
  absl::flat_hash_set<Prompt> known_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace stem
