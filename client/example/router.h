// A plug for a router or gateway: which replica should get a prompt. Include it or copy it; router_example.cc runs it.
//
// Hashing needs a namespace's root, which a node gives to whoever attaches to it: the router attaches to the node of its own
// host as a reader (staging_bytes = 0). Asking directories needs the cluster's token.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/cache_client.h"
#include "client/directory_stub.h"

namespace stem::example {

// The candidate to take, by index: the longest stem in memory counts whole, what must come from SSD half, and all of it by the
// node's health, so that a sick node or a newcomer must hold that much more. Ties, and prompts that nobody holds, go to
// `otherwise`, the router's own choice by load, or to the next after it.
inline size_t PickReplica(const stemcache::v1::ScoreReply& reply, size_t otherwise) {
  const auto count = static_cast<size_t>(reply.nodes_size());
  size_t best = otherwise;
  uint64_t most = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t candidate = (otherwise + i) % count;
    const auto& node = reply.nodes(static_cast<int>(candidate));
    const uint64_t worth = (2 * uint64_t{node.dram_blocks()} + node.ssd_blocks()) * node.health_percent();
    if (worth <= most) continue;
    most = worth;
    best = candidate;
  }
  return best;
}

// Threads: any.
class Router {
 public:
  // Both borrowed. `candidates`: names of the replicas' nodes.
  Router(const CacheClient& hasher, DirectoryStub& directories, std::vector<std::string> candidates)
      : hasher_(hasher), directories_(directories), candidates_(std::move(candidates)) {}

  // The node for a prompt. Never longer than `deadline`, and `otherwise` when nobody answers: routing by cache is a bonus.
  const std::string& Route(std::span<const uint32_t> tokens, size_t otherwise, absl::Time deadline) const {
    absl::StatusOr<ChainHasher> hasher = hasher_.NewHasher();
    if (!hasher.ok()) return candidates_[otherwise];
    const absl::StatusOr<std::vector<BlockKey>> keys = hasher->HashPrompt(/*salt=*/"", tokens, /*extras=*/{});
    if (!keys.ok() || keys->empty()) return candidates_[otherwise];  // shorter than a block
    const absl::StatusOr<stemcache::v1::ScoreReply> scores = directories_.Score(
        {.space = hasher_.fingerprint(), .keys = *keys, .parts = {}, .first = {}}, candidates_, deadline);
    return candidates_[scores.ok() ? PickReplica(*scores, otherwise) : otherwise];
  }

 private:
  const CacheClient& hasher_;
  DirectoryStub& directories_;
  const std::vector<std::string> candidates_;
};

}  // namespace stem::example
