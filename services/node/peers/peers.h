// The other nodes as this one reaches them: a gRPC channel for leases and the memory to read from, both per incarnation.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/block_key.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/trace_context.h"
#include "services/node/peers/host_peers.h"
#include "services/runtime/cluster_secret.h"
#include "stemcache/v1/node.grpc.pb.h"
#include "storage/pool/slot.h"
#include "storage/transport/transport.h"

namespace stem {

// A leased run of a peer's slots.
struct PeerLease {
  std::string node;
  absl::Time expiry;  // for the reader
  std::shared_ptr<RemotePeer> memory;             // to read through the transport; or
  std::shared_ptr<const HostPeerMemory> mapped;   // in place, where the peer is on this host
  stemcache::v1::LeaseReply reply;  // validated
};

// Threads: any.
class Peers {
 public:
  // Borrows all three. `node`: this one's name.
  Peers(std::string node, const ClusterSecret& secret, Transport& transport, HostPeers& host_peers)
      : node_(std::move(node)), secret_(secret), transport_(transport), host_peers_(host_peers) {}

  // Leases the leading run of `names` that the peer holds: one RPC. `geometry` is that of the reader's pool, which the
  // peer's must equal. A lease of no slots is not an error: `reply.miss` says why.
  // Errors: Unavailable (peer gone), DeadlineExceeded, Aborted (it restarted), FailedPrecondition (another geometry).
  // `trace`: under which the peer's work nests; not valid = none.
  absl::StatusOr<PeerLease> Lease(const stemcache::v1::NodeAddress& address, std::span<const BlockName> names,
                                  const SlotGeometry& geometry, absl::Time deadline, const TraceContext& trace);

  // Asks `node` to let its leases `ids` last on, without waiting. `renewed`: told each one's new end, on a thread of gRPC's.
  void Renew(const std::string& node, std::span<const uint64_t> ids, std::function<void(uint64_t id, absl::Time expiry)> renewed);

  // Gives a lease back without waiting, and names what failed its proof. `keep`: a trace whose parked spans the peer shall send.
  void Return(const PeerLease& lease, std::span<const BlockKey> corrupt, const TraceContext& keep = {});

 private:
  struct Known {
    std::string address;
    uint64_t incarnation = 0;  // whose memory map this is; 0 = none
    PeerMemory memory;
    std::shared_ptr<stemcache::v1::Peer::Stub> stub;
  };
  std::shared_ptr<stemcache::v1::Peer::Stub> StubFor(const std::string& node, const std::string& address,
                                                     uint64_t* known_incarnation);
  // Null for a node that granted no lease.
  std::shared_ptr<stemcache::v1::Peer::Stub> KnownStub(const std::string& node);
  void Learn(const std::string& node, const stemcache::v1::LeaseReply& reply);
  absl::StatusOr<std::shared_ptr<RemotePeer>> MemoryOf(const std::string& node,
                                                       const stemcache::v1::LeaseReply& reply, absl::Time deadline);

  const std::string node_;
  const ClusterSecret& secret_;
  Transport& transport_;
  HostPeers& host_peers_;
  Mutex mutex_;
  std::map<std::string, Known> known_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
