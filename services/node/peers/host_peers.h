// The memory of other nodes on this host, mapped read-only: what they lease is read in place by this node's clients, or copied out of it
// once by this node, and no transport is involved. A lease is still the permission, and the digest the proof.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "proto/mutex.h"
#include "proto/status.h"
#include "proto/validate_replies.h"
#include "services/runtime/cluster_secret.h"
#include "services/runtime/log.h"
#include "stemcache/v1/node.pb.h"
#include "storage/pool/arena.h"
#include "storage/pool/slot.h"

namespace stem {

// One incarnation's arenas. They stay readable after its death, with whatever they held. Threads: any.
class HostPeerMemory {
 public:
  struct PeerArena {
    UniqueFd file;       // to hand on to clients
    Mapping mapping;
    uint32_t offer = 0;  // its id for this node's clients: unlike that of any other arena, ever
  };

  // `arenas`: by id at the peer.
  HostPeerMemory(std::string node, std::map<uint32_t, PeerArena> arenas) : node_(std::move(node)), arenas_(std::move(arenas)) {}

  const std::string& node() const { return node_; }
  // Set before clients are told to let go: from then on it is offered to nobody.
  void MarkGone() const { gone_.store(true); }
  bool gone() const { return gone_.load(); }

  // True when every slot that `lease`, validated, names lies in the arena.
  bool Covers(const stemcache::v1::LeaseReply& lease) const;
  // The lease's slot number `index`; it is covered.
  SlotView<const std::byte> slot(const stemcache::v1::LeaseReply& lease, int index) const;

  const std::map<uint32_t, PeerArena>& arenas() const { return arenas_; }

 private:
  const std::string node_;
  const std::map<uint32_t, PeerArena> arenas_;
  mutable std::atomic<bool> gone_ = false;
};

// Threads: any.
class HostPeers {
 public:
  // `host_id`: of this host; empty = map nobody. `on_gone`: told of the memory of a node that has died, under a lock: calls nothing of
  // this. Borrows the rest.
  HostPeers(std::string host_id, std::function<void(const HostPeerMemory&)> on_gone, const ClusterSecret& secret, Logger& log)
      : host_id_(std::move(host_id)), on_gone_(std::move(on_gone)), secret_(secret), log_(log) {}

  // The memory of that incarnation; the first call attaches. Null when it is on another host, cannot be mapped (which is logged, and
  // tried again after a while) or is being attached to by another thread: then the transport reads.
  std::shared_ptr<const HostPeerMemory> MemoryOf(const stemcache::v1::NodeAddress& address, absl::Time deadline);

  // Lets go of the memory of nodes that have died, which the kernel keeps for as long as it is mapped, forgets failures that may be
  // tried again, and does some of the work that first reads of the others would cost. To be called often, by one thread.
  void KeepHouse();

 private:
  struct Known {
    uint64_t incarnation = 0;
    UniqueFd socket;  // its end of file says that the node is gone
    std::shared_ptr<const HostPeerMemory> memory;  // null: being attached to, or not to be tried before `retry`, when it is forgotten
    absl::Time retry;
    size_t prefaulted_bytes = 0;  // of all arenas, in the order of their ids
  };
  // Some arena that has pages to prefault, and where to begin.
  struct Unfaulted {
    std::string node;
    std::shared_ptr<const HostPeerMemory> memory;
    size_t first = 0;
  };
  static bool HasEnded(const Known& known);
  void LetGo(const HostPeerMemory& memory) const;
  void DropDead();
  void PrefaultSome();

  absl::StatusOr<Known> Attach(const stemcache::v1::NodeAddress& address, absl::Time deadline);

  const std::string host_id_;
  const std::function<void(const HostPeerMemory&)> on_gone_;
  const ClusterSecret& secret_;
  Logger& log_;
  std::atomic<uint32_t> next_offer_ = kOfferedArenaFirst;
  Mutex mutex_;
  std::map<std::string, Known> known_ ABSL_GUARDED_BY(mutex_);  // by node
};

}  // namespace stem
