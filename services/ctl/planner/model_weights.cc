#include "services/ctl/planner/model_weights.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace stem::planner {
namespace {

uint64_t AttentionWeights(const ModelShape& shape, ConfigFields& fields) {
  const uint64_t hidden = shape.hidden, heads = shape.heads;
  if (fields.Has("kv_lora_rank")) {  // DeepSeek-V2 paper, section 2.1: down and up projections
    const uint64_t latent = fields.Required("kv_lora_rank"), rope = fields.Required("qk_rope_head_dim");
    const uint64_t nope = fields.Required("qk_nope_head_dim");
    const uint64_t queries = heads * shape.key_dim;
    uint64_t sum =
        hidden * (latent + rope) + latent * heads * (nope + shape.value_dim) + heads * shape.value_dim * hidden;
    const uint64_t q_rank = fields.Has("q_lora_rank") ? fields.Required("q_lora_rank") : 0;
    sum += q_rank > 0 ? hidden * q_rank + q_rank * queries : hidden * queries;
    if (fields.Has("index_head_dim")) {
      const uint64_t index = fields.Required("index_head_dim"), index_heads = fields.Optional("index_n_heads", 64);
      sum += q_rank * index * index_heads + hidden * (index + index_heads);
    }
    return sum;
  }
  uint64_t kv_heads = heads;
  for (const LayerGroup& group : shape.groups) {
    if (group.kind == LayerKind::kFull || group.kind == LayerKind::kSliding) kv_heads = group.kv_heads;
  }
  const bool gated = fields.Flag("attn_output_gate", shape.type == "qwen3_next");
  return hidden * heads * shape.key_dim * (gated ? 2 : 1) + hidden * kv_heads * (shape.key_dim + shape.value_dim) +
         heads * shape.value_dim * hidden;
}

uint64_t LinearWeights(const ModelShape& shape, ConfigFields& fields) {
  const uint64_t hidden = shape.hidden;
  if (fields.Has("linear_num_value_heads")) {
    const uint64_t keys = uint64_t{fields.Required("linear_num_key_heads")} * fields.Required("linear_key_head_dim");
    const uint64_t heads = fields.Required("linear_num_value_heads");
    const uint64_t values = heads * fields.Required("linear_value_head_dim");
    return hidden * (2 * keys + 2 * values + 2 * heads) + values * hidden;
  }
  const uint64_t heads = fields.Required(fields.Has("mamba_n_heads") ? "mamba_n_heads" : "mamba_num_heads");
  const uint64_t inner = heads * fields.Required(fields.Has("mamba_d_head") ? "mamba_d_head" : "mamba_head_dim");
  const uint64_t state = fields.Required(fields.Has("mamba_d_state") ? "mamba_d_state" : "ssm_state_size");
  const uint64_t groups = fields.Required(fields.Has("mamba_n_groups") ? "mamba_n_groups" : "n_groups");
  return hidden * (2 * inner + 2 * groups * state + heads) + inner * hidden;
}

// Feed-forward layers: which have experts, how wide they are.
struct FeedForward {
  uint64_t experts = 0, used = 0;
  uint64_t expert_width = 0, shared_width = 0, dense_width = 0;
  uint32_t matrices = 3;  // gate, up, down; 2 without a gate
};

FeedForward ReadFeedForward(const ModelShape& shape, ConfigFields& fields) {
  FeedForward result;
  for (const char* name : {"n_routed_experts", "num_experts", "num_local_experts"}) {
    if (result.experts == 0 && fields.Has(name)) result.experts = fields.Required(name);
  }
  if (result.experts > 0) {
    result.used = fields.Required(fields.Has("experts_per_token") ? "experts_per_token" : "num_experts_per_tok");
    result.expert_width =
        fields.Required(fields.Has("moe_intermediate_size") ? "moe_intermediate_size" : "intermediate_size");
    if (result.used > result.experts) fields.Fail("the config uses more experts a token than it has");
  }
  if (fields.Has("n_shared_experts") && fields.object()["n_shared_experts"] != 0) {
    const bool own = fields.Has("moe_shared_expert_intermediate_size");
    const uint64_t each = own ? fields.Required("moe_shared_expert_intermediate_size") : result.expert_width;
    result.shared_width = fields.Required("n_shared_experts") * each;
  }
  if (fields.Has("shared_expert_intermediate_size") && fields.object()["shared_expert_intermediate_size"] != 0) {
    result.shared_width = fields.Required("shared_expert_intermediate_size");
  }
  if (shape.type == "llama4") result.shared_width = result.expert_width;
  if (shape.type == "falcon") {
    result.dense_width = fields.Has("ffn_hidden_size") ? fields.Required("ffn_hidden_size") : 4 * shape.hidden;
  } else if (fields.Has("intermediate_size_mlp")) {
    result.dense_width = fields.Required("intermediate_size_mlp");
  } else if (result.experts == 0 || fields.Has("intermediate_size")) {
    result.dense_width = fields.Required("intermediate_size");
  }
  const bool gateless = shape.type == "falcon" || shape.type == "nemotron_h" || shape.type == "phi";
  if (gateless) result.matrices = 2;
  return result;
}

bool HasExperts(const std::string& type, ConfigFields& fields, uint32_t layer) {
  if (type == "nemotron_h") return fields.Text("hybrid_override_pattern").at(layer) == 'E';
  if (type == "llama4") return (layer + 1) % fields.Optional("interleave_moe_layer_step", 1) == 0;
  if (fields.Has("mlp_only_layers") && fields.object()["mlp_only_layers"].is_array()) {
    const auto& list = fields.object()["mlp_only_layers"];
    if (std::find(list.begin(), list.end(), layer) != list.end()) return false;
  }
  const bool listed = fields.Has("first_k_dense_replace") && fields.object()["first_k_dense_replace"] != 0;
  if (listed && layer < fields.Required("first_k_dense_replace")) return false;
  return (layer + 1) % fields.Optional("decoder_sparse_step", 1) == 0;
}

std::string WeightsWord(const nlohmann::json& outer, ConfigFields& fields, ModelShape* shape) {
  const nlohmann::json& quantization =
      outer.contains("quantization_config") ? outer["quantization_config"] : fields.object();
  const std::string method = quantization.is_object() ? ConfigFields(quantization).Text("quant_method") : "";
  const ConfigFields quantized(quantization);
  if (method == "fp8" || method == "mxfp4") return method;
  if (method == "awq" || method == "gptq") {
    const bool eight = quantized.Has("bits") && quantization["bits"] == 8;
    return eight ? "int8" : "int4";
  }
  if (!method.empty()) shape->assumed.push_back(absl::StrCat("weights: quant_method '", method, "' read as fp8"));
  if (!method.empty()) return "fp8";
  for (const char* name : {"dtype", "torch_dtype"}) {
    const std::string word = fields.Has(name) ? fields.Text(name) : ConfigFields(outer).Text(name);
    if (word == "float32") return "fp32";
    if (word == "float16") return "fp16";
    if (word == "bfloat16") return "bf16";
  }
  shape->assumed.push_back("weights: no dtype in the config, taken as bf16");
  return "bf16";
}

}  // namespace

absl::Status CountWeights(const nlohmann::json& outer, ConfigFields& fields, const std::vector<LayerKind>& kinds,
                          ModelShape* shape) {
  const FeedForward wide = ReadFeedForward(*shape, fields);
  STEM_TRY(fields.status());
  const uint64_t hidden = shape->hidden;
  const bool tied_by_default = absl::StartsWith(shape->type, "gemma") || shape->type == "falcon";
  const bool tied =
      ConfigFields(outer).Flag("tie_word_embeddings", fields.Flag("tie_word_embeddings", tied_by_default));
  shape->parameters = hidden * shape->vocab * (tied ? 1 : 2);
  const bool pattern = shape->type == "nemotron_h";
  uint64_t routed_used = 0;
  for (uint32_t layer = 0; layer < kinds.size() && fields.status().ok(); ++layer) {
    if (kinds[layer] == LayerKind::kLinear) {
      shape->parameters += LinearWeights(*shape, fields);
    } else if (kinds[layer] != LayerKind::kNone) {
      shape->parameters += AttentionWeights(*shape, fields);
    }
    if (pattern && kinds[layer] != LayerKind::kNone) continue;  // a layer is either
    if (wide.experts > 0 && HasExperts(shape->type, fields, layer)) {
      const uint64_t expert = wide.matrices * hidden * wide.expert_width;
      shape->routed += wide.experts * expert;
      routed_used += wide.used * expert;
      shape->parameters += hidden * wide.experts + wide.matrices * hidden * wide.shared_width;
      shape->feed_forward = std::max<uint64_t>(shape->feed_forward, wide.used * wide.expert_width + wide.shared_width);
    } else {
      if (wide.dense_width == 0) return absl::InvalidArgumentError("the config has no 'intermediate_size'");
      shape->parameters += wide.matrices * hidden * wide.dense_width;
      shape->feed_forward = std::max<uint64_t>(shape->feed_forward, wide.dense_width);
    }
  }
  STEM_TRY(fields.status());
  shape->active = shape->parameters + routed_used;
  shape->parameters += shape->routed;
  shape->experts = shape->routed > 0 ? wide.experts : 0;
  shape->experts_used = shape->routed > 0 ? wide.used : 0;
  shape->weights = WeightsWord(outer, fields, shape);
  return fields.status();
}

}  // namespace stem::planner
