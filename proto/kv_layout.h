// Shape of a model's KV cache and its byte arithmetic. Constexpr, no CUDA, no protobuf.
// Source of the formulas: the engines' own KV-cache specs; tests/unit/proto/kv_layout_test.cc has hand-computed values.
#pragma once

#include <cstdint>

namespace stem {

enum class KvDtype : uint8_t { kFp32, kFp16, kBf16, kFp8, kInt8, kInt4 };

// Bits of one element.
constexpr uint64_t ElementBits(KvDtype dtype) {
  switch (dtype) {
    case KvDtype::kFp32: return 32;
    case KvDtype::kFp16:
    case KvDtype::kBf16: return 16;
    case KvDtype::kFp8:
    case KvDtype::kInt8: return 8;
    case KvDtype::kInt4: return 4;
  }
  return 0;
}

// Where quantized values keep their scales.
enum class ScaleScheme : uint8_t {
  kNone,          // none, or one per tensor kept with the weights
  kPerTokenHead,  // one fp32 for K and one for V, per token and KV head
};

// The KV of one token in one layer. One of the two attention shapes:
//   heads:  `kv_heads` heads of `head_dim` (K) and `value_dim` (V) elements: MHA, GQA and MQA differ only in kv_heads
//   latent: MLA, one vector of `latent_dim` + `rope_dim` elements, the same on every tensor-parallel rank
struct KvLayout {
  uint32_t layers = 0;
  uint32_t kv_heads = 0;   // 0 = latent
  uint32_t head_dim = 0;   // elements of one K head
  uint32_t value_dim = 0;  // elements of one V head
  uint32_t latent_dim = 0;
  uint32_t rope_dim = 0;
  KvDtype dtype = KvDtype::kFp16;
  ScaleScheme scales = ScaleScheme::kNone;

  constexpr bool latent() const { return kv_heads == 0; }

  // Bytes of one token in one layer, for `heads` of the KV heads (ignored for a latent), with scales.
  constexpr uint64_t token_layer_bytes(uint32_t heads) const {
    const uint64_t elements = latent() ? uint64_t{latent_dim} + rope_dim
                                       : uint64_t{heads} * (uint64_t{head_dim} + value_dim);
    const uint64_t bytes = (elements * ElementBits(dtype) + 7) / 8;
    if (scales == ScaleScheme::kNone) return bytes;
    return bytes + (latent() ? sizeof(float) : uint64_t{heads} * 2 * sizeof(float));
  }

  // Bytes of one token, all layers and heads.
  constexpr uint64_t token_bytes() const { return layers * token_layer_bytes(kv_heads); }

  // Bytes of one block of `block_tokens` tokens.
  constexpr uint64_t block_bytes(uint32_t block_tokens) const { return block_tokens * token_bytes(); }

  // Bytes of the part of one block that covers `layer_count` layers and `head_count` heads.
  constexpr uint64_t part_bytes(uint32_t block_tokens, uint32_t layer_count, uint32_t head_count) const {
    return uint64_t{block_tokens} * layer_count * token_layer_bytes(head_count);
  }

  // KV heads on one rank of `tensor_parallel`: replicated when there are more ranks than heads.
  constexpr uint32_t heads_per_rank(uint32_t tensor_parallel) const {
    return kv_heads >= tensor_parallel ? kv_heads / tensor_parallel : (latent() ? 0 : 1);
  }
};

// How an engine places the pages of its cache. The canonical block does not show it, except where it is opaque.
//   P pages, T tokens of a page, H heads of a rank, D elements of a row; `+` is one thing after another.
enum class PageLayout : uint8_t {
  kVllmSplit,      // vLLM, FlashAttention and relatives: per layer [2][P][T][H][D], all K pages and then all V pages
  kVllmNhd,        // vLLM, FlashInfer and Triton: per layer [P][2][T][H][D]
  kVllmHnd,        // the same with its HND stride order: per layer [P][2][H][T][D]
  kVllmLbnhc,      // vLLM, "LBNHC": per layer [P][T][H][D of K + D of V]
  kVllmLbhnc,      // vLLM, "LBHNC", on a GPU: per layer [P][H][T][D of K + D of V]
  kVllmCpu,        // vLLM's CPU backend: per layer [P][H][K of T tokens + V of T tokens], packed by its instruction set:
                   // opaque within a head
  kLatent,         // MLA of vLLM, SGLang and TensorRT-LLM: per layer [P][T][latent + rope]
  kSglang,         // SGLang's MHA pool: per layer a K tensor and a V tensor, [P * T][H][D] each
  kTensorRtLlm,    // TensorRT-LLM's block pool: one for all layers, [P][layer][2][H][T][D]
  kOpaque,         // pages are bytes: per layer [P][bytes]
};

inline constexpr const char* kPageLayoutNames[] = {"vllm_split", "vllm_nhd", "vllm_hnd", "vllm_lbnhc", "vllm_lbhnc",
                                                   "vllm_cpu",   "latent",   "sglang",   "tensorrt_llm", "opaque"};
inline constexpr int kPageLayouts = sizeof(kPageLayoutNames) / sizeof(kPageLayoutNames[0]);

constexpr const char* PageLayoutName(PageLayout layout) { return kPageLayoutNames[static_cast<int>(layout)]; }

}  // namespace stem
