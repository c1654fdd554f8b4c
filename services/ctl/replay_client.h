// One client of a replay: sessions at every node, memory of its own, and what it counted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/cache_client.h"
#include "proto/status.h"
#include "services/ctl/oracle.h"
#include "services/ctl/replay.h"
#include "services/ctl/replay_report.h"

namespace stem {

class ReplayRouter;

// Not for two threads at once. Memory after construction: grows with the longest chain only.
class ReplayClient {
 public:
  // Attaches to every node. `options` and `hooks` are borrowed. Errors: as of RunReplay.
  static absl::StatusOr<std::unique_ptr<ReplayClient>> Connect(const ReplayOptions& options, const ReplayHooks& hooks,
                                                               uint32_t block_tokens, uint32_t client);

  std::vector<std::string> node_names() const;
  NamespaceFingerprint space() const { return nodes_.front()->fingerprint(); }

  // Asks, loads, compares, publishes. Losses become misses; an error means that the replay makes no sense.
  absl::Status Serve(uint64_t index, const TraceRequest& request, ReplayRouter& router);

  const ReplayTally& tally() const { return tally_; }
  // Blocks of the last request: asked for, and served.
  uint32_t last_blocks() const { return static_cast<uint32_t>(keys_.size()); }
  uint32_t last_hits() const { return last_hits_; }

 private:
  ReplayClient(const ReplayOptions& options, const ReplayHooks& hooks, uint32_t block_tokens, uint32_t client);

  // keys_ and prefixes_ of the request's blocks; its tokens into the tally.
  absl::Status Prepare(const TraceRequest& request);
  // The stem at the first node, from `preferred` on, that is there; `node` says which. An error is the loss of a node
  // in the middle of the call, or none there until `deadline`.
  absl::StatusOr<Stem> AcquireSomewhere(size_t preferred, absl::Time deadline, size_t* node);
  // Loads and compares what was promised; returns how many leading blocks are right here. `status`: why no more.
  uint32_t LoadAndCheck(const TraceRequest& request, const Stem& stem, CacheClient& node, absl::Time deadline,
                        absl::Status* status);
  void Check(const TraceRequest& request, const Stem& stem, uint32_t first, uint32_t count);
  // Counts blocks first.. as missed: by the stem's own causes, else by what `status` means.
  void CountMisses(const TraceRequest& request, uint32_t first, const std::vector<MissRun>& runs,
                   const absl::Status& status);
  void CountMiss(const TraceRequest& request, uint32_t block, stemcache::v1::MissCause cause);
  uint64_t TokensOfBlock(const TraceRequest& request, uint32_t block) const;
  // Offers the blocks first.. to the node and writes those that it wants. Losses are counted; errors as of Serve.
  absl::Status Publish(uint32_t first, CacheClient& node);
  // `first`: block of the reservation's first key. Adds the commit's time to `publishing`. Errors: of Commit.
  absl::Status WriteAndCommit(Reservation reservation, uint32_t first, CacheClient& node,
                              absl::Duration* publishing);
  void NoteRefusal(const std::string& reason);

  const ReplayOptions& options_;
  const ReplayHooks& hooks_;
  const uint32_t block_tokens_;
  const size_t block_bytes_;
  const uint64_t publisher_;
  const std::unique_ptr<std::byte[]> memory_;             // window_blocks_ payloads
  const uint32_t window_blocks_;
  std::vector<std::unique_ptr<CacheClient>> nodes_;
  std::vector<absl::Time> next_probe_;                    // of a node that went away
  std::optional<ChainHasher> hasher_;
  PrefixHasher prefix_hasher_;
  uint64_t publish_number_ = 0;
  uint32_t last_hits_ = 0;
  std::vector<uint32_t> tokens_;                          // of one block
  std::vector<BlockKey> keys_;                            // of the present request
  std::vector<PrefixDigest> prefixes_;
  std::vector<std::span<std::byte>> windows_;             // the memory, payload by payload
  ReplayTally tally_;
};

}  // namespace stem
