// What a transport has of one incarnation of a peer: the handle its callers hold, and the UCX side of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "storage/transport/read_scheduler.h"
#include "storage/transport/transport.h"
#include "storage/transport/ucx_handles.h"

namespace stem {

class UcxPeer : public RemotePeer {
 public:
  UcxPeer(PeerId id, PeerMemory memory) : RemotePeer(std::move(memory)), id_(id) {}
  bool lost() const override { return lost_; }
  void MarkLost() { lost_ = true; }
  PeerId id() const { return id_; }

 private:
  const PeerId id_;
  std::atomic<bool> lost_{false};
};

// On the progress thread only.
struct UcxLink {
  std::shared_ptr<UcxPeer> peer;
  std::unique_ptr<UcxEndpoint> endpoint;
  // By arena, one of the two. UCX wants remote keys alive until the operations that use them have ended.
  absl::flat_hash_map<uint32_t, UcxRemoteKey> remote_keys;
  absl::flat_hash_map<uint32_t, uint64_t> tokens;
  // For reads by messages:
  uint64_t nonce = 0;
  size_t requests_open = 0;                // asked, and neither answered nor given up
  std::optional<SteadyTime> silent_since;  // when it was last heard while something was asked of it
};

using UcxLinks = std::map<PeerId, std::unique_ptr<UcxLink>>;

}  // namespace stem
