// What vLLM publishes of its own cache (--kv-events-config): a batch of events in MessagePack. Schema: vllm/distributed/kv_events.py of
// 0.32: [timestamp, [event...], data parallel rank], an event being a map tagged by "type" that leaves out what is by default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem {

inline constexpr size_t kEventBytesMax = 16 << 20;  // of a batch: a million tokens are 5 MB

// Besides its tokens, what a block's hash covers: an item of a prompt and where it begins, counted from the block's first token (negative:
// in a block before); or, in the first block, the salt.
struct EngineExtra {
  std::string text;
  std::optional<int64_t> offset_tokens;  // absent: the salt
};

struct EngineEvent {
  enum class Kind {
    kStored,
    kRemoved,
    kCleared,
    kOther,  // known and not followed: another medium or group than full attention's, LoRA, embeddings; or a type of a later version
  };
  Kind kind = Kind::kOther;
  std::vector<std::string> hashes;    // of stored blocks, in the order of their chain; or of removed ones
  std::optional<std::string> parent;  // absent: the first block begins its chain
  std::vector<uint32_t> tokens;       // block_tokens for each of `hashes`
  uint32_t block_tokens = 0;
  std::vector<std::vector<EngineExtra>> extras;  // by block; may be shorter
};

struct EngineEventBatch {
  double unix_seconds = 0;  // when the engine made it
  std::vector<EngineEvent> events;
};

// Errors: InvalidArgument (not such a batch), FailedPrecondition (hashes cut to 64 bits, with the setting that mends it).
absl::StatusOr<EngineEventBatch> DecodeEngineEvents(absl::string_view payload);

}  // namespace stem
