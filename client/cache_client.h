// What an inference engine links: asks the node of its host for the longest stem of a prompt, copies it out of shared
// memory with proof, and publishes what it computed. Payload bytes never cross a socket, and no call outlives its
// deadline.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "client/chain.h"
#include "client/reservation.h"
#include "client/stem.h"
#include "proto/block_key.h"
#include "proto/conversation.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"

namespace stem {

struct AcquireOptions {
  std::vector<uint32_t> parts;  // ids, ascending; empty = every part of the namespace
  std::string request;          // the engine's request id, for logs; 0..128 bytes
  std::string traceparent;      // W3C trace context; empty = none
  // How long the engine will need to compute what is missing; at most a minute. Above zero asks for single flight: when another
  // engine of the cluster is computing the chain's missing blocks, the answer waits for that instead of telling this engine to
  // compute them too: at most as long as computing would take with half as much again, and not to the deadline's end (an eighth
  // of it stays for the load). Else this engine is the one that others wait for: it should publish what it computes, at once.
  // So give such an Acquire a deadline that leaves room for the wait. Best effort.
  absl::Duration compute = absl::ZeroDuration();
  // How long the engine takes to compute one block; at most a minute. Above zero, the stem ends where bringing the rest from another node
  // or an SSD is expected to take longer than computing it; those blocks are misses for `recompute_cheaper`.
  absl::Duration block_compute = absl::ZeroDuration();
  // ChainHasher::probe() of the prompt: lets a miss be told as `incompatible`.
  std::optional<Probe> probe;
  Conversation conversation;    // the node keeps what will be used again; told, it need not guess
};

struct ReserveOptions {
  std::optional<BlockKey> parent;  // chain key before the first; absent = the keys start their chain
  std::vector<uint32_t> parts;     // as in AcquireOptions
  std::string traceparent;
  std::optional<Probe> probe;      // as in AcquireOptions
  Conversation conversation;       // as in AcquireOptions
};

// What a Get brought.
struct GetResult {
  uint32_t blocks_loaded = 0;   // leading run that is proved and complete in the caller's memory
  std::vector<MissRun> misses;  // why blocks behind these are not to be had; nothing when `status` is of the call
  absl::Status status;          // of the first block that was promised and did not come, or of the call
};

// Counts since Connect, over all sessions of the client.
struct ClientStats {
  std::array<uint64_t, 5> payloads_loaded = {};  // by v1::Source
  std::array<uint64_t, 5> bytes_loaded = {};     // by v1::Source
  uint64_t proofs_failed = 0;
  uint64_t payloads_committed = 0;
  uint64_t bytes_committed = 0;
  uint64_t stems_broken = 0;  // stems that lost a promised block
  uint64_t reattaches = 0;
  uint64_t messages_refused = 0;  // of the node's, that validation refused
};

// Threads: any, all methods. Callbacks run on a thread of the client (the session's reader, one of two executor
// threads, or the timer), must not block, must not call the synchronous forms and must not destroy the client. Each
// runs exactly once, before the destructor returns; inside the call that was given it only when that call is refused at
// once. Errors, of every call: DeadlineExceeded (its deadline), Unavailable (no node, at once; a gone node is asked for
// again at most every 50 ms, growing to 2 s), ResourceExhausted (4096 calls and stems, or 16 MiB unsent),
// InvalidArgument (names the value), Internal (the node sent nonsense), FailedPrecondition (the node refuses this
// namespace, or its root changed since Connect). All of them mean: recompute.
class CacheClient {
 public:
  struct Options {
    std::string node;  // "unix:///path/node.sock"; its attach socket is that path + ".attach"
    NamespaceSpec space;
    uint64_t staging_bytes = 64ULL << 20;  // 0 = a reader that never publishes
    std::string client_name;               // for the node's logs; 0..128 bytes
    std::string shared_group;              // declared shared group to join; empty = the caller's own tenant
    LocalProof local_proof = LocalProof::kFull;
    uint32_t load_threads = 1;             // that copy for one Load, where it has a MiB and more for each; 1..16
  };

  // Attaches to the node and opens the session.
  static absl::StatusOr<std::unique_ptr<CacheClient>> Connect(Options options, absl::Time deadline);

  // Ends every outstanding call with Unavailable. Stems and views may outlive the client.
  ~CacheClient();
  CacheClient(const CacheClient&) = delete;
  CacheClient& operator=(const CacheClient&) = delete;

  // False once the node is known to be gone; the next call attaches to its successor.
  bool connected() const;
  // Of the present session, or of the last one.
  uint64_t incarnation() const;
  std::string node() const;
  NamespaceFingerprint fingerprint() const;
  // What the node warned about at attach: like-named namespaces that differ, and in which field.
  std::vector<std::string> warnings() const;
  const NamespaceSpec& space() const;
  ClientStats stats() const;

  // A hasher under the namespace's root, for one thread. Errors: as of ChainHasher::Create.
  absl::StatusOr<ChainHasher> NewHasher(absl::string_view salt = {}) const;

  // Pins the longest stem of the chain `keys` (from its first block; 1..65536 keys times parts). A miss is a value: a
  // Stem with no matched blocks.
  absl::StatusOr<Stem> Acquire(std::span<const BlockKey> keys, const AcquireOptions& options, absl::Time deadline);

  // Copies blocks first_block.. into `destinations`: one span per position, each of its part's block_bytes; an empty
  // span skips its position. Waits for each to land, proves it, stops at the first failure: DataLoss (proof failed;
  // reported to the node by Release), Unavailable or DataLoss or DeadlineExceeded (lost; by cause), OutOfRange (beyond
  // what was matched). Bytes of destinations behind blocks_loaded are undefined.
  LoadResult Load(const Stem& stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
                  absl::Time deadline);

  // Acquire, Load and Release in one: copies the chain's blocks into `destinations`, one span per position of the whole chain, each of its part's
  // block_bytes; an empty span skips its position. What lies whole in the node's own memory is copied without a call to it, and the node told
  // some milliseconds later; all else as the three calls would. Nothing stays pinned. Bytes of destinations behind blocks_loaded are undefined.
  GetResult Get(std::span<const BlockKey> keys, const AcquireOptions& options, std::span<const std::span<std::byte>> destinations,
                absl::Time deadline);

  // Copies parts of one position's payload: a reader with another tensor-parallel degree takes just its heads. Proved by the 4 KiB chunks that
  // the ranges touch, whatever local_proof says. Waits for it to land. Errors: as of Load; OutOfRange, too, for a range beyond the payload.
  absl::Status LoadRanges(const Stem& stem, uint32_t position, std::span<const PayloadRange> ranges, absl::Time deadline);

  // The payload of one position in place, its header checked; waits for it to land. Errors: as of Load.
  absl::StatusOr<View> Read(const Stem& stem, uint32_t position, absl::Time deadline);

  // Gives the stem back; never waits. Same as destroying it.
  void Release(Stem stem);

  // Asks which blocks the node wants and gives memory to write them to. When staging cannot hold all, a leading prefix
  // is covered and the rest refused (staging_bytes_missing). Errors: FailedPrecondition (staging_bytes is 0).
  absl::StatusOr<Reservation> Reserve(std::span<const BlockKey> keys, const ReserveOptions& options,
                                      absl::Time deadline);

  // Publishes every wanted payload of the reservation and ends it. Its staging stays out of use until the node is done
  // with it, however early the deadline ends.
  absl::StatusOr<CommitResult> Commit(Reservation reservation, absl::Time deadline);

  // Tells the node that a conversation ended after its last request, so that its blocks may go first. Never waits; nothing happens while
  // there is no node.
  void EndConversation(uint64_t conversation);

  // The same with callbacks. `keys` are copied; `destinations` and the memory they name must stay until the callback.
  using OnAcquired = std::function<void(absl::StatusOr<Stem>)>;
  using OnLoaded = std::function<void(LoadResult)>;
  using OnGot = std::function<void(GetResult)>;
  using OnReserved = std::function<void(absl::StatusOr<Reservation>)>;
  using OnCommitted = std::function<void(absl::StatusOr<CommitResult>)>;
  void AcquireAsync(std::span<const BlockKey> keys, const AcquireOptions& options, absl::Time deadline,
                    OnAcquired done);
  // Copies run on the executor (two threads); a load that waits for a block to land holds none of them. The stem may
  // be destroyed at once: it is released after the callback.
  void LoadAsync(const Stem& stem, uint32_t first_block, std::span<const std::span<std::byte>> destinations,
                 absl::Time deadline, OnLoaded done);
  void GetAsync(std::span<const BlockKey> keys, const AcquireOptions& options, std::span<const std::span<std::byte>> destinations,
                absl::Time deadline, OnGot done);
  void ReserveAsync(std::span<const BlockKey> keys, const ReserveOptions& options, absl::Time deadline,
                    OnReserved done);
  void CommitAsync(Reservation reservation, absl::Time deadline, OnCommitted done);

 private:
  class Core;
  explicit CacheClient(std::unique_ptr<Core> core);

  std::unique_ptr<Core> core_;
};

}  // namespace stem
