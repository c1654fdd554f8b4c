// Reads of a peer's registered arenas into local registered memory: the data plane of a node. One interface, one
// contract suite (tests/contract/transport_contract_test.cc), implemented over UCX (ucx_transport.h) and, for the
// tests of others, inside a process (tests/support/loopback_transport.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace stem {

enum class MemoryPlace : uint8_t { kHost, kGpu };

// Memory that peers may read and that local reads may land in. Destroying it withdraws both; it must outlive every
// read into it (until its on_safe) and be destroyed before its transport. The memory itself must outlive it.
class Registration {
 public:
  virtual ~Registration() = default;
  virtual std::span<std::byte> memory() const = 0;
  virtual MemoryPlace place() const = 0;
  // What a peer needs to read this memory: sealed bytes (envelope.h) for MemoryMap.Region.rkey.
  virtual const std::string& rkey() const = 0;
};

// One arena of a peer, as its MemoryMap says. The peer is not believed further than its own memory.
struct RemoteRegion {
  uint32_t arena = 0;
  uint64_t base = 0;   // virtual address at the owner
  uint64_t bytes = 0;
  std::string rkey;    // Registration::rkey() there
  bool operator==(const RemoteRegion&) const = default;
};

// Everything about a peer's memory that is constant for one of its incarnations.
struct PeerMemory {
  std::string worker_address;  // Transport::worker_address() there
  std::vector<RemoteRegion> regions;
  uint64_t incarnation = 0;
  bool operator==(const PeerMemory&) const = default;
};

// An endpoint and the keys to a peer's arenas, for one incarnation: they are cached together and dropped together,
// as a read at an address of an earlier incarnation would be a read of something else. Any thread.
class RemotePeer {
 public:
  explicit RemotePeer(PeerMemory memory) : memory_(std::move(memory)) {}
  virtual ~RemotePeer() = default;
  RemotePeer(const RemotePeer&) = delete;
  RemotePeer& operator=(const RemotePeer&) = delete;

  uint64_t incarnation() const { return memory_.incarnation; }
  const PeerMemory& memory() const { return memory_; }
  // nullptr when the peer has no such arena.
  const RemoteRegion* Find(uint32_t arena) const;
  // True once its endpoint is gone: reads are refused with Unavailable, and Connect makes a new one.
  virtual bool lost() const = 0;

 private:
  const PeerMemory memory_;
};

struct ReadOp {
  uint32_t arena = 0;                          // at the peer
  uint64_t offset = 0;                         // bytes from the start of that arena
  std::span<std::byte> destination;            // its size is what is read; inside registration->memory()
  const Registration* registration = nullptr;  // of the transport that reads
};

// All run on the transport's progress thread: short, no waiting, no destroying of the transport or a Registration.
// The first two may call Read.
struct ReadCallbacks {
  // Once per op, in any order, and before on_safe. OK: all bytes are there, and this op's destination is the
  // caller's again. Else the answer for that op (DeadlineExceeded when the deadline passed, Unavailable when the
  // peer was lost, OutOfRange or NotFound when the owner refused), while its destination may still be written.
  std::function<void(size_t op, absl::Status status)> on_op;
  // Once, last: no destination of this read will be written again (law 6). OK, or the first failure of an op.
  std::function<void(absl::Status status)> on_safe;
  // How bytes that come through memory of the transport (messages) get into an op's destination; unset: they are
  // copied. `to` is the next of it, from its start on; never called after the op's answer. So who proves them copies
  // and hashes in one pass. Not called where a device writes the destination: what it was not called for is there too. Must be
  // set for a destination on a GPU, unless reads are one-sided: `from` is host memory, and what was queued is to be over on return.
  std::function<void(size_t op, std::span<std::byte> to, std::span<const std::byte> from)> land;
};

struct TransportStats {
  uint64_t reads = 0;           // Read calls accepted
  uint64_t reads_refused = 0;   // Read calls refused because a queue was full
  uint64_t ops_landed = 0;
  uint64_t ops_failed = 0;      // every op with a status other than OK
  uint64_t ops_expired = 0;     // of those, by their deadline
  uint64_t bytes_read = 0;      // by landed ops
  uint64_t bytes_served = 0;    // sent to peers; 0 where peers read without this process's help (RDMA)
  uint64_t serves_refused = 0;  // requests of peers that were out of range, malformed, or one too many
  uint64_t endpoints_open = 0;  // to peers that this node reads
  uint64_t endpoints_lost = 0;  // closed by failure or by a deadline
  uint64_t requesters_open = 0; // peers that read from this node by messages
  uint64_t ops_queued = 0;      // accepted and not yet safe
  uint64_t bytes_in_flight = 0;
};

// Any thread may call, but for the destructor: call it when no other call is running and every Registration is gone.
// To end: Close, then the Registrations, then the transport.
class Transport {
 public:
  virtual ~Transport() = default;

  // Ends every read with Cancelled, closes every endpoint and serves nobody any more; returns when each read has had
  // its on_safe. Later calls are refused with FailedPrecondition. Not from a callback. Twice is once.
  virtual void Close() = 0;

  // What a peer needs to reach this transport: sealed bytes (envelope.h) for MemoryMap.worker_address. Over UCX the
  // address of its listener, not of its worker (README, decisions).
  virtual const std::string& worker_address() const = 0;

  // One line for the log: which lanes were chosen, and how reads go over them.
  virtual const std::string& description() const = 0;

  // Makes `memory` readable by peers and usable as a destination. `memory` must stay mapped until the Registration
  // is gone. Bytes on a GPU that were written by its work must be there before a peer is told of them: streams are not
  // waited for. InvalidArgument: empty. ResourceExhausted: too many registrations, or the device refused. Unimplemented: `place`
  // is a GPU, and no lane moves its memory.
  virtual absl::StatusOr<std::unique_ptr<Registration>> Register(std::span<std::byte> memory,
                                                                 MemoryPlace place) = 0;

  // The cached peer of this incarnation, or a new one. Does not wait for the network: a peer that is not there shows
  // as Unavailable in the first read. InvalidArgument: address, rkey or regions are truncated, damaged or absurd.
  // FailedPrecondition: the peer reads by another path. ResourceExhausted: too many peers. DeadlineExceeded.
  virtual absl::StatusOr<std::shared_ptr<RemotePeer>> Connect(const PeerMemory& memory, absl::Time deadline) = 0;

  // Starts to read. OK: the callbacks will come, even for no ops. Else nothing was started and none will come:
  // OutOfRange (an op leaves its region or its registration), NotFound (no such arena), InvalidArgument (an empty
  // destination, a foreign registration, one on a GPU without `land`), ResourceExhausted (too many ops queued; counted), DeadlineExceeded
  // (already past), Unavailable (peer lost).
  virtual absl::Status Read(std::shared_ptr<RemotePeer> peer, std::vector<ReadOp> ops, absl::Time deadline,
                            ReadCallbacks callbacks) = 0;

  virtual TransportStats Stats() const = 0;
};

// The checks on ops that every implementation makes before the wire; errors as Read's.
absl::Status CheckReadOps(const RemotePeer& peer, std::span<const ReadOp> ops);

}  // namespace stem
