#include "services/ctl/planner/kv_bytes.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace stem::planner {
namespace {

// int8 and int4: one fp32 scale each for a head's key and value; nvfp4: an fp8 scale for 16 values of 4 bits.
// fp8 has one scale a tensor. fp8_ds_mla: 512 fp8 values, 4 fp32 scales, 64 rope values in bf16 = 656 bytes.
const std::vector<KvDtype>& Dtypes() {
  static const std::vector<KvDtype>& dtypes = *new std::vector<KvDtype>{
      {"fp16", 32, 0, true, false},      {"bf16", 32, 0, true, false},  {"fp8", 16, 0, true, false},
      {"fp8_ds_mla", 16, 0, true, true}, {"int8", 16, 8, false, false}, {"int4", 8, 8, false, false},
      {"nvfp4", 9, 0, false, false}};
  return dtypes;
}

constexpr uint64_t kRopeValues = 64, kLatentScaleGroup = 128;  // fp8_ds_mla's layout
// A linear layer's convolution state is kept in the model's dtype (vllm mamba_utils.py).
constexpr uint64_t kConvValueBytes = 2;
// The engine rounds the inflated block up to this many tokens (vllm/platforms/interface.py, kernel block alignment).
constexpr uint64_t kBlockAlignTokens = 16;

uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

bool KeepsTokens(const LayerGroup& group) {
  return group.kind == LayerKind::kFull || group.kind == LayerKind::kSliding || group.kind == LayerKind::kLatent;
}

}  // namespace

std::string KvDtypeWords() {
  return absl::StrJoin(Dtypes(), ", ", [](std::string* out, const KvDtype& dtype) { out->append(dtype.word); });
}

absl::StatusOr<KvDtype> ParseKvDtype(absl::string_view word) {
  for (const KvDtype& dtype : Dtypes()) {
    if (dtype.word == word) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("KV dtype '", word, "' is unknown; use one of ", KvDtypeWords()));
}

absl::StatusOr<KvBytes> KvBytes::Of(const ModelShape& shape, const KvDtype& dtype, Parallel parallel, Holding holding) {
  if (shape.heads % parallel.tensor != 0) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel ", parallel.tensor, " does not divide the model's ",
                                                   shape.heads, " heads; engines refuse that too"));
  }
  if (parallel.pipeline > shape.layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline parallel ", parallel.pipeline, " is more than the model's ", shape.layers, " layers"));
  }
  KvBytes result;
  result.shape_ = shape;
  result.dtype_ = dtype;
  result.parallel_ = parallel;
  result.holding_ = holding;
  bool latent = false;
  for (const LayerGroup& group : shape.groups) {
    latent = latent || group.kind == LayerKind::kLatent;
    if (group.kind != LayerKind::kFull && group.kind != LayerKind::kSliding) continue;
    if (group.kv_heads % parallel.tensor != 0 && parallel.tensor % group.kv_heads != 0) {
      return absl::InvalidArgumentError(absl::StrCat("tensor parallel ", parallel.tensor,
                                                     " neither divides nor is a multiple of the model's ",
                                                     group.kv_heads, " key-value heads"));
    }
    result.copies_ = std::max(result.copies_, parallel.tensor / std::min(parallel.tensor, group.kv_heads));
  }
  if (latent) result.copies_ = parallel.tensor;
  if (latent ? !dtype.latent : dtype.latent_only) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV dtype ", dtype.word,
                     latent ? " is not for MLA; use bf16, fp8 or fp8_ds_mla" : " is for MLA only; use fp8"));
  }
  result.Inflate();
  result.Sum();
  return result;
}

uint64_t KvBytes::TokenLayerBytes(const LayerGroup& group) const {
  switch (group.kind) {
    case LayerKind::kFull:
    case LayerKind::kSliding: {
      // max(1, heads / ranks) heads a rank: more ranks than heads hold copies (kv_cache_interface.py).
      const uint64_t heads = std::max<uint64_t>(1, group.kv_heads / parallel_.tensor);
      const uint64_t values = uint64_t{group.key_dim} + group.value_dim;
      return heads * (values * dtype_.sixteenths / 16 + dtype_.head_scale_bytes);
    }
    case LayerKind::kLatent: {
      // Every rank has the whole vector. The sparse index keeps fp8 and an fp32 scale per 128 (vllm deepseek_v2.py).
      const uint64_t index = group.index_dim + group.index_dim / kLatentScaleGroup * 4;
      if (!dtype_.latent_only) return uint64_t{group.key_dim} * dtype_.sixteenths / 16 + index;
      const uint64_t latent = group.key_dim - kRopeValues;
      return latent + latent / kLatentScaleGroup * 4 + kRopeValues * 2 + index;
    }
    case LayerKind::kLinear:
    case LayerKind::kNone:
      return 0;
  }
  return 0;
}

uint64_t KvBytes::StateLayerBytes(const LayerGroup& group) const {
  if (group.kind != LayerKind::kLinear) return 0;
  return CeilDiv(group.conv_values * kConvValueBytes + group.state_values * group.state_value_bytes, parallel_.tensor);
}

// Pages of all layers are made equal: the attention block grows until its page is no smaller than a state.
void KvBytes::Inflate() {
  block_tokens_ = holding_.engine_block_tokens;
  uint64_t state = 0, token = 0;
  for (const LayerGroup& group : shape_.groups) {
    state = std::max(state, StateLayerBytes(group));
    if (KeepsTokens(group)) token = std::max(token, TokenLayerBytes(group));
  }
  if (state == 0 || token == 0) return;
  const uint64_t align = std::max<uint64_t>(kBlockAlignTokens, holding_.engine_block_tokens);
  const uint64_t inflated = CeilDiv(CeilDiv(state, token), align) * align;
  block_tokens_ = std::max(block_tokens_, static_cast<uint32_t>(inflated));
}

void KvBytes::Sum() {
  for (const LayerGroup& group : shape_.groups) {
    const uint64_t ranks = TokenLayerBytes(group) * group.layers * parallel_.tensor;
    const uint64_t heads = group.kind == LayerKind::kLatent ? 1 : group.kv_heads;
    const uint64_t copies = parallel_.tensor / std::min<uint64_t>(parallel_.tensor, std::max<uint64_t>(1, heads));
    stored_token_ += ranks / copies;
    state_ += StateLayerBytes(group) * group.layers * parallel_.tensor;
    if (group.kind == LayerKind::kSliding) {
      window_ += HeldTokens(group, std::numeric_limits<uint32_t>::max()) * ranks;
      window_tokens_ = std::max(window_tokens_, group.window);
    } else {
      per_token_ += ranks;
      per_token_distinct_ += ranks / copies;
    }
  }
}

// Tokens of the blocks held; a window's first and last block are partly outside it (kv_cache_interface.py).
uint64_t KvBytes::HeldTokens(const LayerGroup& group, uint64_t context) const {
  const uint64_t all = CeilDiv(context + holding_.draft_tokens, block_tokens_);
  if (group.kind != LayerKind::kSliding) return all * block_tokens_;
  // A chunk begins at a block of its own.
  if (group.chunked) return std::min(all, CeilDiv(group.window, block_tokens_)) * block_tokens_;
  const uint64_t inside = uint64_t{group.window} - 1 + 1 + holding_.draft_tokens;  // with the token being computed
  return std::min(all, CeilDiv(std::min(inside, context + holding_.draft_tokens), block_tokens_) + 1) * block_tokens_;
}

uint64_t KvBytes::Request(uint64_t context, bool fullest_rank) const {
  uint64_t bytes = 0;
  for (const LayerGroup& group : shape_.groups) {
    const uint64_t copies = fullest_rank ? RankLayers(group) : uint64_t{group.layers} * parallel_.tensor;
    const uint64_t tokens = KeepsTokens(group) ? HeldTokens(group, context) : 0;
    bytes += copies * (tokens * TokenLayerBytes(group) + StateLayerBytes(group));
  }
  return bytes;
}

uint64_t MhaTokenBytes(const ModelShape& shape) {
  uint64_t layers = 0;
  for (const LayerGroup& group : shape.groups) layers += KeepsTokens(group) ? group.layers : 0;
  return layers * shape.heads * (uint64_t{shape.key_dim} + shape.value_dim) * 2;
}

}  // namespace stem::planner
