// Bytes of keys, values and states, by dtype, context and parallelism. Everything here is arithmetic on a ModelShape.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "proto/status.h"
#include "services/ctl/planner/model_shape.h"

namespace stem::planner {

// How cached values are kept. Source: vllm/v1/kv_cache_interface.py (real page sizes by cache dtype).
struct KvDtype {
  std::string word;
  uint32_t sixteenths = 32;       // of a byte, per value
  uint32_t head_scale_bytes = 0;  // per token and head, for keys and values together
  bool latent = true;             // engines have it for MLA
  bool latent_only = false;
};

// fp16, bf16, fp8, fp8_ds_mla, int8, int4, nvfp4. Errors: InvalidArgument lists them.
absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view word);
// Words of ParseKvDtype, for help texts.
std::string KvDtypeWords();

struct Parallel {
  uint32_t tensor = 1;
  uint32_t pipeline = 1;
};

// What a request holds while it is decoded.
struct Holding {
  uint32_t engine_block_tokens = 16;  // vLLM's --block-size default (vllm/config/cache.py)
  uint32_t draft_tokens = 0;          // of speculative decoding: in blocks until accepted or thrown away
};

class KvBytes {
 public:
  // Errors: InvalidArgument when heads cannot be split so, or the dtype does not go with the model's attention.
  static absl::StatusOr<KvBytes> Of(const ModelShape& shape, const KvDtype& dtype, Parallel parallel, Holding holding);

  // Bytes that one token of one layer takes on one rank; 0 for linear and none.
  uint64_t TokenLayerBytes(const LayerGroup& group) const;
  // Constant bytes that one layer takes per request on one rank; 0 but for linear.
  uint64_t StateLayerBytes(const LayerGroup& group) const;

  // Bytes that one more token takes for ever (full and latent layers), all ranks together, copies counted.
  uint64_t per_token() const { return per_token_; }
  // The same, each distinct byte once: what a store that folds the copies of ranks keeps.
  uint64_t per_token_distinct() const { return per_token_distinct_; }
  // As per_token_distinct, of all layers with window layers too: what one cached token takes in a store that can resume
  // at any of its blocks.
  uint64_t stored_token() const { return stored_token_; }
  // Bytes of the states of linear layers, all ranks; per request.
  uint64_t state() const { return state_; }
  // Most that the window layers take per request, all ranks; reached at the window's length.
  uint64_t window() const { return window_; }
  uint32_t window_tokens() const { return window_tokens_; }  // the longest window; 0 = none

  // Bytes of a request of `context` tokens, rounded up to the engine's blocks: all ranks, and on the fullest rank.
  uint64_t RequestBytes(uint64_t context) const { return Request(context, false); }
  uint64_t RankRequestBytes(uint64_t context) const { return Request(context, true); }

  // Tokens of an attention block after the engine has made it as large as a linear layer's state; the engine's own
  // without linear layers. A shorter prompt never hits. Source: vllm/platforms/interface.py and
  // v1/core/kv_cache_utils.py; blocks of 784 tokens (Qwen3.5 27B) are seen in the field.
  uint32_t engine_block_tokens() const { return block_tokens_; }
  // Layers of a group on the fullest pipeline stage: it may have one more of each kind.
  uint64_t RankLayers(const LayerGroup& group) const { return (group.layers + parallel_.pipeline - 1) / parallel_.pipeline; }
  const ModelShape& shape() const { return shape_; }
  const Holding& holding() const { return holding_; }
  uint32_t copies() const { return copies_; }  // of each key-value head over the tensor-parallel ranks

 private:
  KvBytes() = default;
  void Sum();
  void Inflate();
  uint64_t Request(uint64_t context, bool fullest_rank) const;
  uint64_t HeldTokens(const LayerGroup& group, uint64_t context) const;

  ModelShape shape_;
  KvDtype dtype_;
  Parallel parallel_;
  Holding holding_;
  uint32_t block_tokens_ = 16;
  uint32_t copies_ = 1;
  uint64_t per_token_ = 0, per_token_distinct_ = 0, stored_token_ = 0, state_ = 0, window_ = 0;
  uint32_t window_tokens_ = 0;
};

// Bytes a token of every layer would take with keys and values of each query head in fp16: the yardstick of savings.
uint64_t MhaTokenBytes(const ModelShape& shape);

}  // namespace stem::planner
