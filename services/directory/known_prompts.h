// Under which namespaces a prompt was published, by the probe of its first tokens (proto/FORMAT.md): a miss whose probe is known under
// another namespace of the tenant is `incompatible`. Tenants have probes of their own, so nobody is told of another's. A table of fixed
// size, in which the oldest of a bucket is forgotten first.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/mutex.h"
#include "proto/validate.h"
#include "services/directory/index_memory.h"

namespace stem {

// Threads: any.
class KnownPrompts {
 public:
  static constexpr size_t kPromptsDefault = 1 << 20;  // 16 MiB
  static constexpr size_t kNamespacesMax = 4096;      // those beyond are not learned
  static constexpr size_t kCandidatesMax = 8;         // that one probe is known under

  explicit KnownPrompts(size_t prompts_max = kPromptsDefault);

  // What a node said.
  void Learn(const PublishedCall& published);

  // Other namespaces than `asked` under which the probe is known, those first that differ least from it, when that is known.
  std::vector<NamespaceSpec> FindElsewhere(const NamespaceFingerprint& asked, const Probe& probe) const;

  // The first miss of a reply to `call` becomes INCOMPATIBLE, when it begins the chain, nothing better is known of it, and the probe is known
  // elsewhere.
  void Label(const MatchCall& call, v1::MatchReply& reply) const;

  // How the namespace that was asked differs from the nearest of those; no field set when it is not known.
  v1::Difference DifferenceFrom(const NamespaceFingerprint& asked, const v1::MatchReply& reply) const;

 private:
  struct Entry {
    uint64_t probe = 0;      // 64 bits of it
    uint32_t number = 0;     // index into spaces_, plus 1; 0 = none
  };
  static constexpr size_t kBucketEntries = kCandidatesMax;
  using Bucket = std::array<Entry, kBucketEntries>;  // the newest first
  struct KnownSpace {
    NamespaceFingerprint fingerprint;
    NamespaceSpec spec;
  };

  Bucket& BucketOf(const Probe& probe) const;
  const NamespaceSpec* SpecOf(const NamespaceFingerprint& space) const ABSL_SHARED_LOCKS_REQUIRED(mutex_);

  const size_t buckets_count_;
  const LazyArray<Bucket> buckets_;  // guarded by mutex_
  mutable Mutex mutex_;
  std::vector<KnownSpace> spaces_ ABSL_GUARDED_BY(mutex_);
  absl::flat_hash_map<NamespaceFingerprint, uint32_t> numbers_ ABSL_GUARDED_BY(mutex_);  // index into spaces_, plus 1
};

}  // namespace stem
