// The life of every read op, apart from how its bytes move: waiting for room in the windows, on the wire, answered
// (its caller knows the outcome), safe (its destination is never written again). One thread; owns no memory.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "storage/transport/transport.h"
#include "storage/transport/transport_counters.h"

namespace stem {

using PeerId = uint64_t;  // of a link to one incarnation of a peer; never reused by a transport
using OpId = uint64_t;    // of an op in its transport; never reused
using SteadyTime = std::chrono::steady_clock::time_point;

// How one op crosses: one-sided gets or messages.
class ReadWire {
 public:
  enum class Issued { kPending, kLanded };
  virtual ~ReadWire() = default;
  // Whether ops of `peer` may be issued; asked again whenever something has happened.
  virtual bool Ready(PeerId) { return true; }
  // Puts an op on the wire. kPending: ReadScheduler::Ended follows. An error: nothing was started.
  virtual absl::StatusOr<Issued> Issue(PeerId peer, OpId op, const ReadOp& read, SteadyTime deadline) = 0;
  // What was issued since may be put off until here.
  virtual void Flush() {}
  // Gives an op on the wire up. True: its destination is not written from now on, and Ended will not follow.
  // False: Ended follows, once that is known.
  virtual bool GiveUp(OpId op) = 0;
};

class ReadScheduler {
 public:
  struct Limits {
    uint64_t peer_bytes_max = 0;   // on the wire per peer; one op may exceed it alone
    size_t peer_ops_max = 0;       // on the wire per peer
    uint64_t total_bytes_max = 0;  // on the wire to all peers
  };

  // `first_op` should be random, so that a reply meant for an earlier process fits no op of this one.
  ReadScheduler(Limits limits, ReadWire& wire, TransportCounters& counters, OpId first_op);
  ReadScheduler(const ReadScheduler&) = delete;
  ReadScheduler& operator=(const ReadScheduler&) = delete;

  // Queues the ops of one Read, which CheckReadOps has passed.
  void Submit(PeerId peer, std::vector<ReadOp> ops, SteadyTime deadline, ReadCallbacks callbacks);

  // Puts on the wire what the windows allow, one op per peer in turn. Returns how many.
  size_t Issue();

  // The next bytes of an op on the wire, in memory of the transport: puts them into `to`, which is of its destination.
  void Land(OpId op, std::span<std::byte> to, std::span<const std::byte> from);

  // An op's bytes have all landed, or its failure is known and its destination is safe.
  void Ended(OpId op, const absl::Status& status);

  // Answers DeadlineExceeded for all that is late. Returns the peers of which an op on the wire was given up.
  std::vector<PeerId> Expire(SteadyTime now);

  // Answers `why` for every op of `peer`; those on the wire become safe when GiveUp or Ended says so.
  void Lose(PeerId peer, const absl::Status& why);

  // As Lose for every peer; with `memory_is_safe` no Ended is awaited (the wire has been torn down).
  void LoseAll(const absl::Status& why, bool memory_is_safe);

  size_t on_wire(PeerId peer) const;
  bool idle() const { return ops_.empty(); }
  SteadyTime NextDeadline() const;  // SteadyTime::max() when there is none

 private:
  struct Batch {
    PeerId peer = 0;
    OpId first_op = 0;
    std::vector<ReadOp> ops;
    ReadCallbacks callbacks;
    size_t unsafe = 0;     // ops whose destination may still be written
    absl::Status outcome;  // the first failure
    std::multimap<SteadyTime, std::shared_ptr<Batch>>::iterator deadline;
    bool expired = false;  // `deadline` is no longer valid
  };
  struct Op {
    std::shared_ptr<Batch> batch;
    bool on_wire = false;
    bool answered = false;
  };
  struct PeerQueue {
    std::deque<OpId> waiting;
    uint64_t bytes_on_wire = 0;
    size_t ops_on_wire = 0;
  };

  static const ReadOp& Read(OpId id, const Op& op) { return op.batch->ops[id - op.batch->first_op]; }
  bool IssueNext(PeerId peer, PeerQueue& queue);
  void Answer(OpId id, const absl::Status& status);
  void MakeSafe(OpId id);
  // Answers and, where possible at once, makes safe. True when one was on the wire.
  bool Fail(const std::vector<OpId>& ids, const absl::Status& status, bool memory_is_safe);

  const Limits limits_;
  ReadWire& wire_;
  TransportCounters& counters_;
  OpId next_op_;
  PeerId last_served_ = 0;
  absl::flat_hash_map<OpId, Op> ops_;  // not yet safe
  std::map<PeerId, PeerQueue> queues_;
  std::multimap<SteadyTime, std::shared_ptr<Batch>> deadlines_;
};

}  // namespace stem
