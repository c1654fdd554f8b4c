// What a node says to its client -> trusted value: the client's half of proto/validate.h, under the same rules. A
// client believes no length, offset, slot or count of its node before these have passed it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "proto/probe.h"
#include "proto/validate.h"

namespace stem {

inline constexpr size_t kAttachMessageBytesMax = 64 << 10;
inline constexpr size_t kAttachArenasMax = 252;  // with the staging, what one SCM_RIGHTS message can carry

// A node's leave to attach.
struct AttachGrant {
  std::string session_token;
  NamespaceFingerprint space;
  Root root = {};
  std::optional<ProbeKey> probe_key;  // none of an older node
  std::string node;
  uint64_t incarnation = 0;
  uint64_t staging_bytes = 0;
  std::vector<v1::ArenaMap>
      arenas;  // ids differ; every slot holds a header and a payload of the namespace's largest part
  std::vector<std::string> warnings;
};
// `message.code` is 0. `descriptors`: how many came with it: one for staging if any was granted, then one per arena and slot map.
absl::StatusOr<AttachGrant> ValidateAttachReply(const v1::AttachReply& message, const NamespaceSpec& spec,
                                                size_t descriptors);

// A peer's leave to map its memory, as another node of its host asked for: the arenas, ids ascending; one descriptor came for each.
struct HostPeerGrant {
  uint64_t incarnation = 0;
  std::vector<v1::ArenaMap> arenas;
};
absl::StatusOr<HostPeerGrant> ValidateHostPeerReply(const v1::AttachReply& message, size_t descriptors);

inline constexpr uint32_t kOfferedArenaFirst = 1 << 16;  // ids of arenas that are offered; those of an AttachReply are below
inline constexpr size_t kOfferedArenasMax = 64;          // mapped at a time

// A node's offer of another's memory to map, or its withdrawal (arena.bytes 0). `descriptors`: how many came with it.
absl::Status ValidateArenaOffer(const v1::ArenaOffer& message, const NamespaceSpec& spec, size_t descriptors);

// Answer to an Acquire of `blocks` blocks in `parts` parts: ready runs inside the match, misses that cover the rest.
absl::Status ValidateAcquired(const v1::Acquired& message, uint32_t blocks, uint32_t parts,
                              const std::vector<v1::ArenaMap>& arenas);

// `matched_blocks`: what was promised before. The message takes some away, and its misses cover exactly those.
absl::Status ValidateLost(const v1::Lost& message, uint32_t matched_blocks);

// Answer to a Reserve of `positions`: wanted runs ascend without overlap, and all counts together fit.
absl::Status ValidateReserved(const v1::Reserved& message, uint32_t positions);

// Answer to a Commit of `positions`.
absl::Status ValidateCommitted(const v1::Committed& message, uint32_t positions);

}  // namespace stem
