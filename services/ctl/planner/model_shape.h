// What a model's config.json says about its caches and weights, layer by layer. No engine, no GPU: numbers only.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "absl/strings/string_view.h"
#include "proto/status.h"

namespace stem::planner {

enum class LayerKind {
  kFull,     // keys and values of every token
  kSliding,  // keys and values of the last `window` tokens (also chunked attention)
  kLatent,   // MLA: one vector a token, the same on every tensor-parallel rank
  kLinear,   // Mamba-2 or gated delta net: a state of constant size
  kNone,     // caches nothing: a feed-forward layer, or it reads another layer's keys and values
};

// Equal layers. Heads and dims are of the whole model, before tensor parallelism.
struct LayerGroup {
  LayerKind kind = LayerKind::kFull;
  uint32_t layers = 0;
  uint32_t kv_heads = 0;      // full, sliding
  uint32_t key_dim = 0;       // of one head; latent: kv_lora_rank + qk_rope_head_dim
  uint32_t value_dim = 0;     // of one head; latent: 0, values are read from the same vector
  uint32_t window = 0;        // sliding: tokens
  bool chunked = false;       // sliding: whole chunks of `window` tokens instead of the last ones (Llama 4)
  uint32_t index_dim = 0;     // latent with a sparse-attention index: elements more a token
  uint64_t conv_values = 0;   // linear: elements of the convolution's state, 2 bytes each
  uint64_t state_values = 0;  // linear: elements of the recurrent state, `state_value_bytes` each
  uint32_t state_value_bytes = 4;
};

struct ModelShape {
  std::string name;
  std::string type;                // model_type
  std::string source;              // where the numbers were read
  std::vector<LayerGroup> groups;  // in order of first appearance
  uint32_t layers = 0;
  uint32_t heads = 0;      // of queries
  uint32_t key_dim = 0;    // of one query head: what a key would take without sharing
  uint32_t value_dim = 0;  // of one head
  uint32_t hidden = 0;
  uint32_t vocab = 0;
  uint64_t feed_forward = 0;         // widest feed-forward layer a token goes through
  uint64_t context_max = 0;          // max_position_embeddings; 0 = not said
  uint64_t parameters = 0;           // all weights, counted from the shapes; norms and biases are left out (< 0.1 %)
  uint64_t active = 0;               // of them, used by one token
  uint64_t routed = 0;               // of `parameters`, in routed experts
  uint64_t experts = 0;              // 0 = dense
  uint64_t experts_used = 0;         // by one token
  std::string weights;               // dtype word that the config says, or "bf16"
  std::vector<std::string> assumed;  // what the config does not say and what was taken instead, one sentence each
};

// Reads a Hugging Face config (a nested text_config is found). `name`: what reports call the model.
// Errors: InvalidArgument names the field that is missing or out of range, or the architecture that is not understood.
absl::StatusOr<ModelShape> ParseModel(const nlohmann::json& config, absl::string_view name);

// The same from a file. Errors: NotFound, InvalidArgument (also for what is not JSON).
absl::StatusOr<ModelShape> ReadModel(const std::string& path);

}  // namespace stem::planner
