// What this host's engine keeps in its own cache, as its events tell: hashes of the engine become keys of the namespace, and every block
// of which all tokens are there is announced in EngineCacheOf(namespace), where nothing is ever fetched from.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "client/chain.h"
#include "proto/mutex.h"
#include "proto/namespace_spec.h"
#include "proto/status.h"
#include "services/node/engines/engine_events.h"
#include "storage/pool/block_pool.h"

namespace stem {

struct EngineBlocksStats {
  uint64_t blocks = 0;         // of the namespace, announced now
  uint64_t engine_blocks = 0;  // known now
  uint64_t stored = 0;         // engine blocks since the start, as the next two
  uint64_t removed = 0;
  uint64_t dropped = 0;  // stored, and not followed: behind a block that is not known, of another size, or too many
};

// Threads: any.
class EngineBlocks {
 public:
  static constexpr size_t kEngineBlocksMax = 1 << 20;   // 16 M tokens, of blocks of 16
  static constexpr size_t kKeptBytesMax = 256 << 20;    // of tokens and items whose block of the namespace is not full yet
  static constexpr uint32_t kPiecesMax = 4096;          // engine blocks in one of the namespace

  using OnChange = std::function<void(const BlockChange&)>;
  // `on_change` runs under a lock, in the order of changes. Errors: FailedPrecondition (keys of the namespace are not made from tokens).
  static absl::StatusOr<std::unique_ptr<EngineBlocks>> Create(const NamespaceSpec& spec, const NamespaceFingerprint& fingerprint,
                                                             const Root& root, OnChange on_change);

  ~EngineBlocks();

  // Errors: FailedPrecondition (the engine's blocks do not divide the namespace's).
  absl::Status Apply(const EngineEvent& event);
  // Nothing is known any more.
  void Clear();
  // An add for each announced block, in no order.
  void Snapshot(const OnChange& each) const;
  EngineBlocksStats stats() const;

 private:
  struct Block;
  using Blocks = absl::flat_hash_map<std::string, std::unique_ptr<Block>>;

  EngineBlocks(ChainHasher hasher, const NamespaceFingerprint& space, uint32_t block_tokens, OnChange on_change);

  void Store(const EngineEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::unique_ptr<Block> NewBlock(Block* parent, const EngineEvent& event, size_t index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Nothing when it cannot be hashed.
  std::optional<BlockKey> KeyOf(const Block& last) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Remove(const std::string& hash) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(Block* block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Announce(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Withdraw(Block& block) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ClearLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NamespaceFingerprint space_;
  const uint32_t block_tokens_;
  const OnChange on_change_;
  mutable Mutex mutex_;
  ChainHasher hasher_ ABSL_GUARDED_BY(mutex_);
  uint32_t per_block_ ABSL_GUARDED_BY(mutex_) = 0;  // engine blocks in one of the namespace; 0 = none was seen yet
  Blocks blocks_ ABSL_GUARDED_BY(mutex_);  // by the engine's hash; those that left stay while others come behind them
  size_t kept_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  EngineBlocksStats stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace stem
