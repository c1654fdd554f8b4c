#include "services/ctl/planner/model_shape.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "services/ctl/planner/config_fields.h"
#include "services/ctl/planner/model_weights.h"

namespace stem::planner {
namespace {

// Read with this parser's rules against their public configs; anything else is read by the same fields and said to be.
bool IsKnown(const std::string& type) {
  static const std::set<std::string>& known = *new std::set<std::string>{
      "llama", "llama4",   "mistral",      "mixtral",     "qwen2",       "qwen2_moe",    "qwen3",
      "gemma", "gemma2",   "gemma3",       "qwen3_moe",   "qwen3_next",  "qwen3_5",      "qwen3_5_moe",
      "phi3",  "qwen3_vl", "qwen3_vl_moe", "deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2",
      "glm4",  "glm4_moe", "glm_moe_dsa",  "gpt_oss",     "falcon",      "minimax_m2",   "nemotron_h"};
  return known.contains(type);
}

// Fields that change what is cached in ways not modelled here: a number without them would be wrong.
struct Refusal {
  const char* field;
  const char* what;
};
constexpr Refusal kRefused[] = {
    {"compress_ratios", "compressed attention"},
    {"block_configs", "layers of different shapes (NAS)"},
    {"linear_attn_config", "delta attention"},
    {"attn_layer_period", "Mamba-1 layers"},
    {"global_head_dim", "full layers with heads of their own size"},
    {"swa_num_key_value_heads", "window layers with heads of their own"},
    {"attention_other_setting", "window layers with heads of their own"},
    {"ssm_cfg", "Mamba-1 layers"},
};

// layer_types words (transformers) to kinds.
absl::StatusOr<LayerKind> KindOf(const std::string& word) {
  static const std::map<std::string, LayerKind>& kinds =
      *new std::map<std::string, LayerKind>{{"full_attention", LayerKind::kFull},
                                            {"attention", LayerKind::kFull},
                                            {"sliding_attention", LayerKind::kSliding},
                                            {"chunked_attention", LayerKind::kSliding},
                                            {"linear_attention", LayerKind::kLinear},
                                            {"mamba", LayerKind::kLinear},
                                            {"mamba2", LayerKind::kLinear},
                                            {"moe", LayerKind::kNone},
                                            {"mlp", LayerKind::kNone}};
  const auto found = kinds.find(word);
  if (found != kinds.end()) return found->second;
  return absl::InvalidArgumentError(absl::StrCat("the config's 'layer_types' holds '", word.substr(0, 40),
                                                 "'; understood are full_attention, sliding_attention, "
                                                 "chunked_attention, linear_attention, mamba"));
}

std::string TypeOf(const nlohmann::json& outer, const nlohmann::json& inner) {
  std::string type = ConfigFields(inner).Text("model_type");
  if (type.empty()) type = ConfigFields(outer).Text("model_type");
  constexpr absl::string_view kText = "_text";
  if (absl::EndsWith(type, kText)) type.resize(type.size() - kText.size());
  return type;
}

absl::StatusOr<std::vector<LayerKind>> ListedKinds(const nlohmann::json& types, uint32_t layers) {
  if (!types.is_array() || types.size() != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("the config's 'layer_types' must list num_hidden_layers = ", layers, " layers"));
  }
  std::vector<LayerKind> kinds;
  for (const nlohmann::json& word : types) {
    STEM_ASSIGN(const LayerKind kind, KindOf(word.is_string() ? word.get<std::string>() : word.dump()));
    kinds.push_back(kind);
  }
  return kinds;
}

// nemotron_h: M Mamba-2, * attention, - feed-forward, E experts.
absl::StatusOr<std::vector<LayerKind>> PatternKinds(const std::string& pattern, uint32_t layers) {
  if (pattern.size() != layers || pattern.find_first_not_of("M*-E") != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the config's 'hybrid_override_pattern' must be num_hidden_layers = ", layers, " letters of M * - E"));
  }
  std::vector<LayerKind> kinds;
  for (const char letter : pattern) {
    kinds.push_back(letter == 'M' ? LayerKind::kLinear : letter == '*' ? LayerKind::kFull : LayerKind::kNone);
  }
  return kinds;
}

// Which layers slide when no list says so (transformers' configuration_*.py of each type).
bool Slides(const std::string& type, ConfigFields& fields, uint32_t layer) {
  if (type == "llama4") return (layer + 1) % fields.Optional("no_rope_layer_interval", 4) != 0;
  if (type == "gemma2" || type == "gpt_oss") return layer % 2 == 0;
  if (type == "gemma3") return (layer + 1) % fields.Optional("sliding_window_pattern", 6) != 0;
  if (!fields.Has("sliding_window")) return type == "mistral" && !fields.object().contains("sliding_window");
  if (absl::StartsWith(type, "qwen")) {
    return fields.Flag("use_sliding_window", false) && layer >= fields.Optional("max_window_layers", 0);
  }
  return true;
}

absl::StatusOr<std::vector<LayerKind>> KindsOf(const std::string& type, ConfigFields& fields, uint32_t layers) {
  if (fields.Has("layer_types")) return ListedKinds(fields.object().at("layer_types"), layers);
  if (fields.Has("hybrid_override_pattern")) return PatternKinds(fields.Text("hybrid_override_pattern"), layers);
  if (type == "nemotron_h") return absl::InvalidArgumentError("the config has no 'hybrid_override_pattern'");
  std::vector<LayerKind> kinds(layers, LayerKind::kFull);
  const bool alternates = fields.Has("full_attention_interval") || type == "qwen3_next";
  const uint32_t interval = alternates ? fields.Optional("full_attention_interval", 4) : 1;
  for (uint32_t layer = 0; layer < layers && fields.status().ok(); ++layer) {
    if (alternates) {
      if ((layer + 1) % interval != 0) kinds[layer] = LayerKind::kLinear;
    } else if (Slides(type, fields, layer)) {
      kinds[layer] = LayerKind::kSliding;
    }
  }
  return kinds;
}

// One gated-delta-net or Mamba-2 layer's state: vllm/model_executor/layers/mamba/mamba_utils.py, as page shapes.
void AddState(ConfigFields& fields, LayerGroup* group) {
  const std::string dtype =
      fields.Has("mamba_ssm_cache_dtype") ? fields.Text("mamba_ssm_cache_dtype") : fields.Text("mamba_ssm_dtype");
  group->state_value_bytes = dtype == "bfloat16" || dtype == "float16" ? 2 : 4;
  if (fields.Has("linear_num_value_heads")) {
    const uint64_t keys = uint64_t{fields.Required("linear_num_key_heads")} * fields.Required("linear_key_head_dim");
    const uint64_t key_dim = fields.Required("linear_key_head_dim");
    const uint64_t values =
        uint64_t{fields.Required("linear_num_value_heads")} * fields.Required("linear_value_head_dim");
    group->conv_values = (fields.Optional("linear_conv_kernel_dim", 4) - 1) * (2 * keys + values);
    group->state_values = values * key_dim;
    return;
  }
  const uint64_t inner = uint64_t{fields.Required(fields.Has("mamba_n_heads") ? "mamba_n_heads" : "mamba_num_heads")} *
                         fields.Required(fields.Has("mamba_d_head") ? "mamba_d_head" : "mamba_head_dim");
  const uint64_t state = fields.Required(fields.Has("mamba_d_state") ? "mamba_d_state" : "ssm_state_size");
  const uint64_t groups = fields.Required(fields.Has("mamba_n_groups") ? "mamba_n_groups" : "n_groups");
  const uint64_t kernel = fields.Required(fields.Has("mamba_d_conv") ? "mamba_d_conv" : "conv_kernel");
  group->conv_values = (kernel - 1) * (inner + 2 * groups * state);
  group->state_values = inner * state;
}

uint32_t KvHeads(const std::string& type, ConfigFields& fields, ModelShape* shape) {
  if (type == "falcon") {  // transformers configuration_falcon.py
    if (fields.Flag("new_decoder_architecture", false)) return fields.Required("num_kv_heads");
    return fields.Flag("multi_query", true) ? 1 : shape->heads;
  }
  if (!fields.Has("num_key_value_heads")) {
    shape->assumed.push_back("no 'num_key_value_heads': every query head has its own keys and values (MHA)");
  }
  return fields.Optional("num_key_value_heads", shape->heads);
}

uint32_t WindowOf(const std::string& type, ConfigFields& fields, ModelShape* shape) {
  if (type == "llama4") return fields.Required("attention_chunk_size");
  if (fields.Has("attention_chunk_size") && !fields.Has("sliding_window"))
    return fields.Required("attention_chunk_size");
  if (type != "gemma2" && type != "gemma3" && type != "mistral") return fields.Required("sliding_window");
  if (!fields.Has("sliding_window")) shape->assumed.push_back("no 'sliding_window': 4096, the type's default");
  return fields.Optional("sliding_window", 4096);
}

LayerGroup GroupOf(LayerKind kind, ConfigFields& fields, uint32_t kv_heads, ModelShape* shape) {
  LayerGroup group;
  group.kind = kind == LayerKind::kFull && fields.Has("kv_lora_rank") ? LayerKind::kLatent : kind;
  switch (group.kind) {
    case LayerKind::kLatent:
      group.kv_heads = 1;
      group.key_dim = fields.Required("kv_lora_rank") + fields.Required("qk_rope_head_dim");
      group.index_dim = fields.Has("index_head_dim") ? fields.Required("index_head_dim") : 0;
      break;
    case LayerKind::kSliding:
      group.window = WindowOf(shape->type, fields, shape);
      group.chunked = fields.Has("attention_chunk_size") && !fields.Has("sliding_window");
      [[fallthrough]];
    case LayerKind::kFull:
      group.kv_heads = kv_heads;
      group.key_dim = shape->key_dim;
      group.value_dim = shape->value_dim;
      break;
    case LayerKind::kLinear:
      AddState(fields, &group);
      break;
    case LayerKind::kNone:
      break;
  }
  // A window that nothing outgrows is none.
  if (group.kind == LayerKind::kSliding && shape->context_max > 0 && group.window >= shape->context_max) {
    group.kind = LayerKind::kFull;
    group.window = 0;
  }
  return group;
}

absl::Status AddGroups(ConfigFields& fields, const std::vector<LayerKind>& kinds, ModelShape* shape) {
  const uint32_t kv_heads = KvHeads(shape->type, fields, shape);
  if (fields.status().ok() && (kv_heads > shape->heads || shape->heads % kv_heads != 0)) {
    fields.Fail(absl::StrCat("the config's key-value heads, ", kv_heads, ", do not divide its num_attention_heads, ",
                             shape->heads));
  }
  std::map<LayerKind, size_t> places;
  for (const LayerKind kind : kinds) {
    const auto [place, is_new] = places.try_emplace(kind, shape->groups.size());
    if (is_new) shape->groups.push_back(GroupOf(kind, fields, kv_heads, shape));
    ++shape->groups[place->second].layers;
    STEM_TRY(fields.status());
  }
  return absl::OkStatus();
}

void ReadHeads(ConfigFields& fields, ModelShape* shape) {
  shape->layers = fields.Required("num_hidden_layers");
  shape->heads = fields.Required("num_attention_heads");
  shape->hidden = fields.Required("hidden_size");
  shape->vocab = fields.Required("vocab_size");
  shape->context_max = fields.Optional("max_position_embeddings", 0);
  if (!fields.status().ok()) return;
  if (shape->layers > 10'000) fields.Fail(absl::StrCat("the config's 'num_hidden_layers' is ", shape->layers));
  if (fields.Has("kv_lora_rank")) {
    shape->key_dim = fields.Required("qk_nope_head_dim") + fields.Required("qk_rope_head_dim");
    shape->value_dim = fields.Required("v_head_dim");
    return;
  }
  if (!fields.Has("head_dim") && shape->hidden % shape->heads != 0) {
    fields.Fail(absl::StrCat("the config has no 'head_dim', and num_attention_heads ", shape->heads,
                             " does not divide hidden_size ", shape->hidden));
  }
  shape->key_dim = fields.Optional("head_dim", shape->hidden / shape->heads);
  shape->value_dim = fields.Optional("v_head_dim", shape->key_dim);
}

absl::Status Refuse(ConfigFields& fields) {
  for (const Refusal& refusal : kRefused) {
    if (!fields.Has(refusal.field)) continue;
    return absl::InvalidArgumentError(absl::StrCat("the config has '", refusal.field, "': ", refusal.what,
                                                   " is not modelled, and sizes without it would be wrong"));
  }
  if (fields.Flag("is_encoder_decoder", false)) {
    return absl::InvalidArgumentError("the config is of an encoder-decoder; only decoders are planned");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelShape> ParseModel(const nlohmann::json& config, absl::string_view name) {
  if (!config.is_object()) return absl::InvalidArgumentError("not a model's config: not a JSON object");
  const bool nested = config.contains("text_config") && config["text_config"].is_object();
  ConfigFields fields(nested ? config["text_config"] : config);
  ModelShape shape;
  shape.name = std::string(name);
  shape.type = TypeOf(config, fields.object());
  if (shape.type.empty() && !config.contains("architectures") && !fields.Has("num_hidden_layers")) {
    return absl::InvalidArgumentError(
        "not a model's config: neither 'model_type' nor 'architectures' nor 'num_hidden_layers'");
  }
  STEM_TRY(Refuse(fields));
  if (!IsKnown(shape.type)) {
    shape.assumed.push_back(
        absl::StrCat("architecture '", shape.type.empty() ? "not said" : shape.type,
                     "' is not known: read as a decoder by its fields; check it against the engine"));
  }
  ReadHeads(fields, &shape);
  STEM_TRY(fields.status());
  STEM_ASSIGN(std::vector<LayerKind> kinds, KindsOf(shape.type, fields, shape.layers));
  STEM_TRY(fields.status());
  const std::vector<LayerKind> attention = kinds;
  const uint32_t shared = fields.Has("num_kv_shared_layers") && fields.object()["num_kv_shared_layers"] != 0
                              ? fields.Required("num_kv_shared_layers")
                              : 0;  // the last layers read an earlier layer's keys and values
  for (uint32_t i = 0; i < std::min(shared, shape.layers); ++i) kinds[shape.layers - 1 - i] = LayerKind::kNone;
  STEM_TRY(AddGroups(fields, kinds, &shape));
  if (shape.groups.size() == 1 && shape.groups.front().kind == LayerKind::kNone) {
    return absl::InvalidArgumentError("no layer of this config caches anything: there is nothing to plan");
  }
  STEM_TRY(CountWeights(config, fields, attention, &shape));
  return shape;
}

absl::StatusOr<ModelShape> ReadModel(const std::string& path) {
  std::ifstream file(path);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  const nlohmann::json config = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (config.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, " is not JSON"));
  absl::StatusOr<ModelShape> shape = ParseModel(config, path);
  if (shape.ok()) {
    shape->source = path;
    return shape;
  }
  return absl::Status(shape.status().code(), absl::StrCat(path, ": ", shape.status().message()));
}

}  // namespace stem::planner
