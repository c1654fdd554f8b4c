// Wire message -> trusted value. The only place where bytes from outside become values that the rest of the
// code believes, hence a fuzz target. Every error is InvalidArgument and names the field, the offending value
// and what would be right. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "google/protobuf/io/zero_copy_stream.h"
#include "proto/block_key.h"
#include "proto/conversation.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "stemcache/v1/directory.pb.h"
#include "stemcache/v1/node.pb.h"
#include "stemcache/v1/types.pb.h"

namespace stem {

namespace v1 = ::stemcache::v1;

inline constexpr size_t kChainBlocksMax = 65536;          // blocks in one request: 1 M tokens at 16 a block
inline constexpr uint32_t kPartsMax = 64;
inline constexpr uint64_t kBlockBytesMax = 1ULL << 30;
inline constexpr uint32_t kBlockTokensMax = 65536;
inline constexpr uint64_t kStagingAlignment = 64;         // of a payload in staging, bytes
inline constexpr int kMessageBytesMax = 64 << 20;         // of one gRPC message, any service
inline constexpr uint32_t kAttachProtocol = 1;
inline constexpr uint64_t kArenaBytesMax = 1ULL << 44;
inline constexpr uint64_t kSequenceMax = 1ULL << 62;      // of changes, so that sums cannot overflow
inline constexpr uint32_t kComputeMillisMax = 60'000;     // of an Acquire
inline constexpr uint32_t kBlockComputeMicrosMax = 60'000'000;
inline constexpr int kCandidatesMax = 4096;               // nodes named in one Score

absl::StatusOr<NamespaceFingerprint> ValidateFingerprint(absl::string_view bytes);

// 1..kChainBlocksMax keys.
absl::StatusOr<std::vector<BlockKey>> ValidateKeys(absl::string_view bytes);

absl::StatusOr<NamespaceSpec> ValidateSpec(const v1::NamespaceSpec& message);
v1::NamespaceSpec ToMessage(const NamespaceSpec& spec);

// The first field in which the one of `known` differs that differs least from `asked`; empty when all are equal or there are none.
v1::Difference FirstDifference(const NamespaceSpec& asked, const google::protobuf::RepeatedPtrField<v1::NamespaceSpec>& known);

// The part ids of a request in `spec`: ascending and known; empty = every part of it.
absl::StatusOr<std::vector<uint32_t>> ValidateParts(const google::protobuf::RepeatedField<uint32_t>& ids,
                                                    const NamespaceSpec& spec);

struct AttachCall {
  NamespaceSpec spec;
  uint64_t staging_bytes = 0;
  std::string client_name;
  std::string shared_group;
};
absl::StatusOr<AttachCall> ValidateAttach(const v1::AttachRequest& message);

// A request id above 0, a deadline inside its limits where the message needs one, and a message that is set.
absl::Status ValidateEnvelope(const v1::ClientMessage& message);

// Chain keys asked for, and the part ids that make each a set of payloads.
struct ChainCall {
  std::vector<BlockKey> keys;
  std::vector<uint32_t> parts;
  std::optional<Probe> probe;  // of the chain's first tokens, when the client knows it
};
absl::StatusOr<ChainCall> ValidateAcquire(const v1::Acquire& message, const NamespaceSpec& spec);

// Errors: InvalidArgument (an outlook that is none).
absl::StatusOr<Conversation> ValidateConversation(const v1::Conversation& message);

// One Get of a client, which it tells of afterwards.
struct GotChain {
  ChainCall chain;
  std::string request;
  std::string traceparent;
  Conversation conversation;
  uint32_t payloads_loaded = 0;  // at most all
  uint64_t bytes_loaded = 0;     // at most all
  absl::Duration began_ago;      // before the message was sent
  absl::Duration took;           // at most began_ago
  absl::Duration deadline;       // from its beginning
  absl::Duration block_compute;  // zero = not said
};
inline constexpr int kGotChainsMax = 1024;  // in one message
absl::StatusOr<std::vector<GotChain>> ValidateGot(const v1::Got& message, const NamespaceSpec& spec);

struct ReserveCall {
  std::optional<BlockKey> parent;  // absent = the keys start the chain
  ChainCall chain;
  Conversation conversation;
};
absl::StatusOr<ReserveCall> ValidateReserve(const v1::Reserve& message, const NamespaceSpec& spec);

// Positions ascend and have one aligned offset each; that they were reserved is the session's to check.
absl::Status ValidateCommit(const v1::Commit& message);

// A part of the stem's blocks that the asker needs.
struct WantedPart {
  uint32_t id = 0;
  uint32_t window_blocks = 0;  // of the stem's last blocks only; 0 = of every block

  friend bool operator==(const WantedPart&, const WantedPart&) = default;
};

struct MatchCall {
  NamespaceFingerprint space;
  std::vector<BlockKey> keys;
  std::vector<WantedPart> parts;  // never empty
  std::string requester;
  std::optional<Probe> probe;     // of the first tokens; set only when `keys` begin at the chain's first block
};
// The bytes of a MatchRequest. A chain is long and its answer short, so the keys are copied once, from the wire to where they
// are read, and not by way of a message.
absl::StatusOr<MatchCall> ReadMatch(google::protobuf::io::ZeroCopyInputStream& bytes);
// Same fields; `candidates` stay in the message.
absl::StatusOr<MatchCall> ValidateScore(const v1::ScoreRequest& message);

// Runs and misses cover the request's `blocks` without gaps and name holders that are listed.
absl::Status ValidateMatchReply(const v1::MatchReply& message, size_t blocks);

// One entry per candidate when there were any; no node matches more than was asked.
absl::Status ValidateScoreReply(const v1::ScoreReply& message, size_t candidates, size_t blocks);

// Somebody will compute `keys`; see proto/stemcache/v1/directory.proto.
struct IntendCall {
  NamespaceFingerprint space;
  std::vector<BlockKey> keys;
  std::string requester;
  absl::Duration duration;  // zero = gives up its own intent
  absl::Duration wait;
};
absl::StatusOr<IntendCall> ValidateIntend(const v1::IntendRequest& message);
absl::Status ValidateIntendReply(const v1::IntendReply& message);

absl::Status ValidateAddress(const v1::NodeAddress& message);

// One run of changes in the directory's own terms.
struct ValidChangeRun {
  uint32_t namespace_number = 0;
  bool remove = false;
  v1::Tier tier = v1::TIER_UNSPECIFIED;
  v1::RemoveReason reason = v1::REMOVE_REASON_UNSPECIFIED;
  std::optional<BlockKey> parent;
  std::vector<BlockKey> keys;
};
absl::StatusOr<ValidChangeRun> ValidateChangeRun(const v1::ChangeRun& message);

absl::Status ValidateHello(const v1::Hello& message);
absl::Status ValidateHeartbeat(const v1::Heartbeat& message);

struct PublishedCall {
  NamespaceSpec spec;
  NamespaceFingerprint space;
  std::vector<Probe> probes;  // 0..4096
};
absl::StatusOr<PublishedCall> ValidatePublished(const v1::PublishedPrompts& message);

struct InternedNamespace {
  uint32_t number = 0;  // 1..
  NamespaceFingerprint space;
  bool engine_cache = false;
};
// A batch or a snapshot chunk: the numbers it introduces, and changes in order.
struct ValidChanges {
  uint64_t changes = 0;  // keys in all runs
  std::vector<InternedNamespace> namespaces;
  std::vector<ValidChangeRun> runs;
};
absl::StatusOr<ValidChanges> ValidateBatch(const v1::Batch& message);
// As a batch, but adds only.
absl::StatusOr<ValidChanges> ValidateChunk(const v1::SnapshotChunk& message);

struct LeaseCall {
  NamespaceFingerprint space;
  std::vector<BlockKey> keys;  // part keys
};
absl::StatusOr<LeaseCall> ValidateLease(const v1::LeaseRequest& message);

// Arrays of equal length, at most `keys_asked` of them; chunk hashes of the right size; lengths within
// `block_bytes_max`; every slot inside a region of `memory` when that is set.
absl::Status ValidateLeaseReply(const v1::LeaseReply& message, size_t keys_asked, uint64_t block_bytes_max);

// At least one lease, at most kLeasesRenewedMax.
inline constexpr int kLeasesRenewedMax = 65536;
absl::Status ValidateRenew(const v1::RenewRequest& message);

// Runs of slots with one generation each, positions below `positions`, every arena among `arenas`.
absl::Status ValidateSlotRun(const v1::SlotRun& run, size_t positions, const std::vector<v1::ArenaMap>& arenas);

absl::Status ValidateArenaMap(const v1::ArenaMap& arena);

}  // namespace stem
