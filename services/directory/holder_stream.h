// One node's announce stream: what it sent, in order, turned into changes of the index. Plain: no gRPC, no clock.
//
// What the node must do:
//   - Send Hello first, then a snapshot, even an empty one, then what changed since; a Heartbeat at least every half
//     heartbeat interval. Chunks stand for heartbeats, and so does waiting for one to be acknowledged.
//   - Have at most two chunks of a snapshot under way that were not acknowledged: what a thousand nodes send at once must not pile up
//     here, and their heartbeats behind it.
//   - Send the chunks of a snapshot before any change beyond its sequence: changes that come in between are dropped,
//     and then found missing.
//   - Intern every namespace number of a snapshot in that snapshot, and never give a number another meaning.
//   - Send every change that a heartbeat counts before the heartbeat after it.
//   - Answer Resync with a snapshot. On another error, reconnect.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/validate.h"
#include "services/directory/membership.h"
#include "services/directory/prefix_index.h"

namespace stem {

class HolderStream {
 public:
  static constexpr size_t kNamespacesMax = 65536;

  // Heartbeats without a step towards a whole snapshot before it is asked for again: 2 s at the default pace. Counted in
  // heartbeats because those wait in the same queue as the chunks: a directory that is behind does not ask for more. Doubles
  // each time, up to 16 times.
  static constexpr uint32_t kRetryBeats = 40;

  // Borrows both.
  HolderStream(Membership& membership, PrefixIndex& index);
  HolderStream(const HolderStream&) = delete;
  HolderStream& operator=(const HolderStream&) = delete;

  // Threads: one at a time.

  struct Outcome {
    std::optional<stemcache::v1::AnnounceReply> reply;
    uint64_t changes = 0;  // applied
    bool resync = false;   // the reply asks for one
  };
  // An error ends the stream: InvalidArgument (the message, or its place in the stream), Aborted (another stream
  // speaks for the node), FailedPrecondition and ResourceExhausted (Membership::Join). Nothing of it was applied.
  absl::StatusOr<Outcome> OnMessage(const stemcache::v1::AnnounceMessage& message, absl::Time now);

  // The stream ended, for whatever reason. What it said is stale from here on.
  void OnClosed();

  // Empty before Hello.
  const std::string& node() const { return ticket_.node; }

 private:
  enum class State {
    kNew,      // Hello must come
    kWaiting,  // a snapshot must come; changes are dropped
    kFilling,  // a snapshot is coming
    kWhole,
  };

  absl::StatusOr<Outcome> OnBatch(const stemcache::v1::Batch& batch, absl::Time now);
  absl::StatusOr<Outcome> OnChunk(const stemcache::v1::SnapshotChunk& chunk, absl::Time now);
  Outcome OnHeartbeat(const stemcache::v1::Heartbeat& heartbeat, absl::Time now);
  absl::Status Intern(const std::vector<InternedNamespace>& namespaces);
  absl::Status CheckInterned(const ValidChanges& valid) const;
  // Applies all but the first `skip` changes to slot_.
  uint64_t Apply(const ValidChanges& valid, uint64_t skip);
  Outcome Acknowledge() const;
  Outcome AskResync(uint64_t received);

  Membership& membership_;
  PrefixIndex& index_;
  State state_ = State::kNew;
  StreamTicket ticket_;
  SlotHandle slot_;                       // filled by the snapshot, then by batches
  uint64_t applied_ = 0;                  // last change that slot_ has, once whole
  uint64_t filling_sequence_ = 0;
  uint64_t filling_adds_ = 0;
  uint32_t next_chunk_ = 0;
  uint32_t idle_beats_ = 0;               // since the last step towards a whole snapshot
  uint32_t retry_beats_ = kRetryBeats;
  std::optional<uint64_t> promised_;      // sequence of an earlier heartbeat that we were behind
  absl::flat_hash_map<uint32_t, InternedNamespace> namespaces_;
  std::vector<uint64_t> fingerprints_;    // of the run that is being applied
};

}  // namespace stem
