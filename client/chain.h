// Tokens -> keys. A chain's keys are computed from token ids under the namespace's root, so that two processes,
// versions or engines that see the same prefix name it alike, and nobody without the root can name it at all. Source:
// proto/FORMAT.md, "Chain keys", with golden vectors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/block_key.h"
#include "proto/namespace_spec.h"
#include "proto/probe.h"
#include "proto/status.h"

namespace stem {

inline constexpr size_t kSaltBytesMax = 1024;
inline constexpr size_t kExtraBytesMax = 4096;  // of one extra key
inline constexpr size_t kExtrasPerBlockMax = 256;
inline constexpr size_t kExternalHashBytesMax = 256;  // of one hash of an engine

// What an extra key stands for; numbers are on the wire of the hash and never change.
enum class ExtraTag : uint8_t {
  kLora = 1,             // adapter identity, in block 0: later keys inherit it
  kMultimodal = 2,       // item identifier, in the block where its first placeholder token lies
  kPromptEmbedding = 3,  // digest of the embeddings that stand for this block's tokens
  kGeneric = 4,
};

// Something besides its tokens that a block's KV depends on.
struct ExtraKey {
  ExtraTag tag = ExtraTag::kGeneric;
  absl::string_view bytes;     // 0..kExtraBytesMax; borrowed for the call
  uint32_t offset_tokens = 0;  // kMultimodal only: of the item's first token in its block
};

// An extra key and the block of the prompt that it belongs to.
struct PlacedExtra {
  size_t block = 0;
  ExtraKey extra;
};

// Hashes one chain at a time, token by token or whole prompts. Only full blocks get keys. No allocation per block once
// warm. Movable; keep one per thread and Restart() it: creating one derives the secret from the root.
// Threads: one at a time.
class ChainHasher {
 public:
  // `probe_key`: of the tenant, from its node; without one chains have no probe.
  // Errors: InvalidArgument (block_tokens outside 1..65536, a salt over kSaltBytesMax, an unknown scheme).
  static absl::StatusOr<ChainHasher> Create(HashScheme scheme, const Root& root, absl::string_view salt, uint32_t block_tokens,
                                            const std::optional<ProbeKey>& probe_key = std::nullopt);

  ChainHasher(ChainHasher&&) noexcept;
  ChainHasher& operator=(ChainHasher&&) noexcept;
  ~ChainHasher();

  // Forgets the chain and begins another under `salt`. Errors: InvalidArgument.
  absl::Status Restart(absl::string_view salt);

  // Goes on behind the full block whose key is `last`, as if its chain had been hashed up to there; blocks() counts from there.
  // Not for the external scheme, whose hashes name their whole prefix.
  void GoOnAfter(const BlockKey& last);

  // Gives the block that the next token belongs to one more extra key. Order counts: FORMAT.md asks for ascending tag,
  // then ascending offset. Errors: InvalidArgument (size), ResourceExhausted (kExtrasPerBlockMax), FailedPrecondition
  // (the scheme is external: the engine's hashes cover its extras).
  absl::Status AddExtra(const ExtraKey& extra);

  // Adds tokens to the chain and appends the key of each block that became full to `keys`.
  // Errors: FailedPrecondition (the scheme is external).
  absl::Status AppendTokens(std::span<const uint32_t> tokens, std::vector<BlockKey>& keys);

  // External scheme: the engine's hash of the next block, which must name the whole prefix, appended to `keys`
  // re-keyed. Errors: InvalidArgument (hash of 0 or over kExternalHashBytesMax bytes), FailedPrecondition (another
  // scheme).
  absl::Status AppendHash(absl::string_view hash, std::vector<BlockKey>& keys);

  // Restart(salt), then all of `tokens`: the keys of its full blocks. `extras` ascend by block; those of a block that
  // is not full are ignored. Errors: as of the three above.
  absl::StatusOr<std::vector<BlockKey>> HashPrompt(absl::string_view salt, std::span<const uint32_t> tokens,
                                                   std::span<const PlacedExtra> extras);

  // key[-1] of the present chain, and the key of its last full block (key[-1] before the first).
  const BlockKey& origin() const;
  const BlockKey& last() const;
  // Full blocks so far; tokens of the block that is not full yet.
  size_t blocks() const;
  uint32_t tail_tokens() const;

  // Of the present chain, for AcquireOptions and ReserveOptions: with it a miss says whether the prompt is known under another namespace.
  // Nothing before kProbeTokens tokens, where these stand for prompt embeddings, after GoOnAfter, and for the external scheme. Takes a microsecond.
  std::optional<Probe> probe() const;

 private:
  struct State;
  explicit ChainHasher(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace stem
