#include "services/ctl/planner/model_table.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace stem::planner {
namespace {

// Where the fields of an entry can be read again; compared on 2026-11-25.
//   config: equal, field by field, to the config.json that aiconfigurator-core 0.12.0 (PyPI) carries; glm-4.7: its repository.
//   litgpt: layers, heads, widths, windows, vocabulary and context equal to litgpt 0.5.13 (PyPI), litgpt/config.py.
//   primus: equal to Primus's Megatron settings (GitHub, deepseek_v2*.yaml); context and dtype from the model's card.
constexpr char kConfig[] = "its config.json";
constexpr char kLitgpt[] = "litgpt 0.5.13; dtype from the model's card";
// The card's context; litgpt says another, or 4,096 (the window), or it rounds the vocabulary (transformers: 262,208).
constexpr char kLitgptNotContext[] = "litgpt 0.5.13; context and dtype from the model's card";
constexpr char kLitgptNotVocabulary[] = "litgpt 0.5.13; vocabulary from transformers 5.19; dtype from the model's card";
constexpr char kPrimus[] = "Primus's Megatron settings; context and dtype from the model's card";

struct Entry {
  const char* name;
  const char* config;
  const char* source = kConfig;
};

// The fields of each model's config.json that the parser reads.
constexpr Entry kModels[] = {
    {"llama-2-7b", R"({"model_type":"llama","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                   R"("num_key_value_heads":32,"intermediate_size":11008,"vocab_size":32000,)"
                   R"("max_position_embeddings":4096,"tie_word_embeddings":false,"torch_dtype":"float16"})",
     kLitgpt},
    {"llama-2-13b", R"({"model_type":"llama","num_hidden_layers":40,"hidden_size":5120,"num_attention_heads":40,)"
                    R"("num_key_value_heads":40,"intermediate_size":13824,"vocab_size":32000,)"
                    R"("max_position_embeddings":4096,"tie_word_embeddings":false,"torch_dtype":"float16"})",
     kLitgpt},
    {"llama-2-70b",
     R"({"model_type":"llama","num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,)"
     R"("num_key_value_heads":8,"intermediate_size":28672,"vocab_size":32000,"max_position_embeddings":4096,)"
     R"("tie_word_embeddings":false,"torch_dtype":"float16"})",
     kLitgpt},
    {"llama-3-8b", R"({"model_type":"llama","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                   R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":128256,)"
                   R"("max_position_embeddings":8192,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgpt},
    {"llama-3-70b", R"({"model_type":"llama","num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,)"
                    R"("num_key_value_heads":8,"intermediate_size":28672,"vocab_size":128256,)"
                    R"("max_position_embeddings":8192,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgpt},
    {"llama-3.1-8b", R"({"model_type":"llama","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                     R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":128256,)"
                     R"("max_position_embeddings":131072,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"llama-3.1-70b", R"({"model_type":"llama","num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,)"
                      R"("num_key_value_heads":8,"intermediate_size":28672,"vocab_size":128256,)"
                      R"("max_position_embeddings":131072,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"llama-3.1-405b", R"({"model_type":"llama","num_hidden_layers":126,"hidden_size":16384,"num_attention_heads":128,)"
                       R"("num_key_value_heads":8,"intermediate_size":53248,"vocab_size":128256,)"
                       R"("max_position_embeddings":131072,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"llama-4-scout",
     R"({"model_type":"llama4_text","num_hidden_layers":48,"hidden_size":5120,"num_attention_heads":40,)"
     R"("num_key_value_heads":8,"intermediate_size":8192,"vocab_size":202048,)"
     R"("max_position_embeddings":10485760,"num_local_experts":16,"num_experts_per_tok":1,)"
     R"("intermediate_size_mlp":16384,"interleave_moe_layer_step":1,"attention_chunk_size":8192,)"
     R"("torch_dtype":"bfloat16","tie_word_embeddings":false,"head_dim":128})"},
    {"llama-4-maverick",
     R"({"model_type":"llama4_text","num_hidden_layers":48,"hidden_size":5120,"num_attention_heads":40,)"
     R"("num_key_value_heads":8,"intermediate_size":8192,"vocab_size":202048,)"
     R"("max_position_embeddings":1048576,"num_local_experts":128,"num_experts_per_tok":1,)"
     R"("intermediate_size_mlp":16384,"interleave_moe_layer_step":2,"attention_chunk_size":8192,)"
     R"("torch_dtype":"bfloat16","tie_word_embeddings":false,"head_dim":128})"},
    {"mistral-7b-v0.1", R"({"model_type":"mistral","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                        R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":32000,)"
                        R"("max_position_embeddings":32768,"tie_word_embeddings":false,"torch_dtype":"bfloat16",)"
                        R"("sliding_window":4096})",
     kLitgptNotContext},
    {"mistral-7b-v0.3", R"({"model_type":"mistral","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                        R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":32768,)"
                        R"("max_position_embeddings":32768,"tie_word_embeddings":false,"torch_dtype":"bfloat16",)"
                        R"("sliding_window":null})",
     kLitgpt},
    {"mixtral-8x7b", R"({"model_type":"mixtral","num_hidden_layers":32,"hidden_size":4096,"num_attention_heads":32,)"
                     R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":32000,)"
                     R"("max_position_embeddings":32768,"num_local_experts":8,"num_experts_per_tok":2,)"
                     R"("tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"mixtral-8x22b", R"({"model_type":"mixtral","num_hidden_layers":56,"hidden_size":6144,"num_attention_heads":48,)"
                      R"("num_key_value_heads":8,"intermediate_size":16384,"vocab_size":32000,)"
                      R"("max_position_embeddings":65536,"num_local_experts":8,"num_experts_per_tok":2,)"
                      R"("tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"qwen2.5-7b", R"({"model_type":"qwen2","num_hidden_layers":28,"hidden_size":3584,"num_attention_heads":28,)"
                   R"("num_key_value_heads":4,"intermediate_size":18944,"vocab_size":152064,)"
                   R"("max_position_embeddings":32768,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgptNotContext},
    {"qwen2.5-32b", R"({"model_type":"qwen2","num_hidden_layers":64,"hidden_size":5120,"num_attention_heads":40,)"
                    R"("num_key_value_heads":8,"intermediate_size":27648,"vocab_size":152064,)"
                    R"("max_position_embeddings":32768,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgptNotContext},
    {"qwen2.5-72b", R"({"model_type":"qwen2","num_hidden_layers":80,"hidden_size":8192,"num_attention_heads":64,)"
                    R"("num_key_value_heads":8,"intermediate_size":29568,"vocab_size":152064,)"
                    R"("max_position_embeddings":32768,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgptNotContext},
    {"qwen3-0.6b", R"({"model_type":"qwen3","num_hidden_layers":28,"hidden_size":1024,"num_attention_heads":16,)"
                   R"("num_key_value_heads":8,"head_dim":128,"intermediate_size":3072,"vocab_size":151936,)"
                   R"("max_position_embeddings":40960,"tie_word_embeddings":true,"torch_dtype":"bfloat16"})"},
    {"qwen3-8b", R"({"model_type":"qwen3","num_hidden_layers":36,"hidden_size":4096,"num_attention_heads":32,)"
                 R"("num_key_value_heads":8,"intermediate_size":12288,"vocab_size":151936,)"
                 R"("max_position_embeddings":40960,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"qwen3-32b", R"({"model_type":"qwen3","num_hidden_layers":64,"hidden_size":5120,"num_attention_heads":64,)"
                  R"("num_key_value_heads":8,"head_dim":128,"intermediate_size":25600,"vocab_size":151936,)"
                  R"("max_position_embeddings":40960,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"qwen3-30b-a3b", R"({"model_type":"qwen3_moe","num_hidden_layers":48,"hidden_size":2048,"num_attention_heads":32,)"
                      R"("num_key_value_heads":4,"head_dim":128,"intermediate_size":6144,"vocab_size":151936,)"
                      R"("max_position_embeddings":40960,"num_experts":128,"num_experts_per_tok":8,)"
                      R"("moe_intermediate_size":768,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"qwen3-235b-a22b",
     R"({"model_type":"qwen3_moe","num_hidden_layers":94,"hidden_size":4096,"num_attention_heads":64,)"
     R"("num_key_value_heads":4,"head_dim":128,"intermediate_size":12288,"vocab_size":151936,)"
     R"("max_position_embeddings":40960,"num_experts":128,"num_experts_per_tok":8,)"
     R"("moe_intermediate_size":1536,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})"},
    {"qwen3-coder-480b",
     R"({"model_type":"qwen3_moe","num_hidden_layers":62,"hidden_size":6144,"num_attention_heads":96,)"
     R"("num_key_value_heads":8,"head_dim":128,"intermediate_size":8192,"vocab_size":151936,)"
     R"("max_position_embeddings":262144,"num_experts":160,"num_experts_per_tok":8,)"
     R"("moe_intermediate_size":2560,"shared_expert_intermediate_size":0,"tie_word_embeddings":false,)"
     R"("torch_dtype":"bfloat16"})"},
    {"qwen3.5-27b",
     R"({"model_type":"qwen3_5_text","num_hidden_layers":64,"hidden_size":5120,"num_attention_heads":24,)"
     R"("num_key_value_heads":4,"head_dim":256,"intermediate_size":17408,"vocab_size":248320,)"
     R"("max_position_embeddings":262144,"full_attention_interval":4,"dtype":"bfloat16",)"
     R"("mamba_ssm_dtype":"float32","linear_conv_kernel_dim":4,"linear_key_head_dim":128,)"
     R"("linear_num_key_heads":16,"linear_num_value_heads":48,"linear_value_head_dim":128,)"
     R"("attn_output_gate":true,"tie_word_embeddings":false})"},
    {"qwen3.5-35b-a3b",
     R"({"model_type":"qwen3_5_moe_text","num_hidden_layers":40,"hidden_size":2048,"num_attention_heads":16,)"
     R"("num_key_value_heads":2,"head_dim":256,"vocab_size":248320,"max_position_embeddings":262144,)"
     R"("num_experts":256,"num_experts_per_tok":8,"moe_intermediate_size":512,)"
     R"("shared_expert_intermediate_size":512,"full_attention_interval":4,"dtype":"bfloat16",)"
     R"("mamba_ssm_dtype":"float32","linear_conv_kernel_dim":4,"linear_key_head_dim":128,)"
     R"("linear_num_key_heads":16,"linear_num_value_heads":32,"linear_value_head_dim":128,)"
     R"("attn_output_gate":true,"tie_word_embeddings":false})"},
    {"qwen3.5-397b-a17b",
     R"({"model_type":"qwen3_5_moe_text","num_hidden_layers":60,"hidden_size":4096,"num_attention_heads":32,)"
     R"("num_key_value_heads":2,"head_dim":256,"vocab_size":248320,"max_position_embeddings":262144,)"
     R"("num_experts":512,"num_experts_per_tok":10,"moe_intermediate_size":1024,)"
     R"("shared_expert_intermediate_size":1024,"full_attention_interval":4,"dtype":"bfloat16",)"
     R"("mamba_ssm_dtype":"float32","linear_conv_kernel_dim":4,"linear_key_head_dim":128,)"
     R"("linear_num_key_heads":16,"linear_num_value_heads":64,"linear_value_head_dim":128,)"
     R"("attn_output_gate":true,"tie_word_embeddings":false})"},
    {"gemma-2-9b",
     R"({"model_type":"gemma2","num_hidden_layers":42,"hidden_size":3584,"num_attention_heads":16,)"
     R"("num_key_value_heads":8,"intermediate_size":14336,"vocab_size":256000,)"
     R"("max_position_embeddings":8192,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":256,)"
     R"("sliding_window":4096})",
     kLitgpt},
    {"gemma-2-27b",
     R"({"model_type":"gemma2","num_hidden_layers":46,"hidden_size":4608,"num_attention_heads":32,)"
     R"("num_key_value_heads":16,"intermediate_size":36864,"vocab_size":256000,)"
     R"("max_position_embeddings":8192,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":128,)"
     R"("sliding_window":4096})",
     kLitgpt},
    {"gemma-3-1b",
     R"({"model_type":"gemma3","num_hidden_layers":26,"hidden_size":1152,"num_attention_heads":4,)"
     R"("num_key_value_heads":1,"intermediate_size":6912,"vocab_size":262144,)"
     R"("max_position_embeddings":32768,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":256,)"
     R"("sliding_window":512,"sliding_window_pattern":6})",
     kLitgptNotContext},
    {"gemma-3-4b",
     R"({"model_type":"gemma3","num_hidden_layers":34,"hidden_size":2560,"num_attention_heads":8,)"
     R"("num_key_value_heads":4,"intermediate_size":10240,"vocab_size":262208,)"
     R"("max_position_embeddings":131072,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":256,)"
     R"("sliding_window":1024,"sliding_window_pattern":6})",
     kLitgptNotVocabulary},
    {"gemma-3-12b",
     R"({"model_type":"gemma3","num_hidden_layers":48,"hidden_size":3840,"num_attention_heads":16,)"
     R"("num_key_value_heads":8,"intermediate_size":15360,"vocab_size":262208,)"
     R"("max_position_embeddings":131072,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":256,)"
     R"("sliding_window":1024,"sliding_window_pattern":6})",
     kLitgptNotVocabulary},
    {"gemma-3-27b",
     R"({"model_type":"gemma3","num_hidden_layers":62,"hidden_size":5376,"num_attention_heads":32,)"
     R"("num_key_value_heads":16,"intermediate_size":21504,"vocab_size":262208,)"
     R"("max_position_embeddings":131072,"tie_word_embeddings":true,"torch_dtype":"bfloat16","head_dim":128,)"
     R"("sliding_window":1024,"sliding_window_pattern":6})",
     kLitgptNotVocabulary},
    {"phi-4", R"({"model_type":"phi3","num_hidden_layers":40,"hidden_size":5120,"num_attention_heads":40,)"
              R"("num_key_value_heads":10,"intermediate_size":17920,"vocab_size":100352,)"
              R"("max_position_embeddings":16384,"tie_word_embeddings":false,"torch_dtype":"bfloat16"})",
     kLitgpt},
    {"deepseek-v2-lite",
     R"({"model_type":"deepseek_v2","num_hidden_layers":27,"hidden_size":2048,"num_attention_heads":16,)"
     R"("num_key_value_heads":16,"intermediate_size":10944,"vocab_size":102400,)"
     R"("max_position_embeddings":163840,"tie_word_embeddings":false,"torch_dtype":"bfloat16",)"
     R"("n_routed_experts":64,"moe_intermediate_size":1408,"kv_lora_rank":512,"qk_rope_head_dim":64,)"
     R"("qk_nope_head_dim":128,"v_head_dim":128,"n_shared_experts":2,"num_experts_per_tok":6,)"
     R"("first_k_dense_replace":1})",
     kPrimus},
    {"deepseek-v2",
     R"({"model_type":"deepseek_v2","num_hidden_layers":60,"hidden_size":5120,"num_attention_heads":128,)"
     R"("num_key_value_heads":128,"intermediate_size":12288,"vocab_size":102400,)"
     R"("max_position_embeddings":163840,"tie_word_embeddings":false,"torch_dtype":"bfloat16",)"
     R"("q_lora_rank":1536,"n_routed_experts":160,"moe_intermediate_size":1536,"kv_lora_rank":512,)"
     R"("qk_rope_head_dim":64,"qk_nope_head_dim":128,"v_head_dim":128,"n_shared_experts":2,)"
     R"("num_experts_per_tok":6,"first_k_dense_replace":1})",
     kPrimus},
    {"deepseek-v3",
     R"({"model_type":"deepseek_v3","num_hidden_layers":61,"hidden_size":7168,"num_attention_heads":128,)"
     R"("num_key_value_heads":128,"intermediate_size":18432,"vocab_size":129280,)"
     R"("max_position_embeddings":163840,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,)"
     R"("v_head_dim":128,"q_lora_rank":1536,"n_routed_experts":256,"n_shared_experts":1,)"
     R"("num_experts_per_tok":8,"moe_intermediate_size":2048,"first_k_dense_replace":3,)"
     R"("tie_word_embeddings":false,"torch_dtype":"bfloat16","quantization_config":{"quant_method":"fp8"}})"},
    {"deepseek-r1",
     R"({"model_type":"deepseek_v3","num_hidden_layers":61,"hidden_size":7168,"num_attention_heads":128,)"
     R"("num_key_value_heads":128,"intermediate_size":18432,"vocab_size":129280,)"
     R"("max_position_embeddings":163840,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,)"
     R"("v_head_dim":128,"q_lora_rank":1536,"n_routed_experts":256,"n_shared_experts":1,)"
     R"("num_experts_per_tok":8,"moe_intermediate_size":2048,"first_k_dense_replace":3,)"
     R"("tie_word_embeddings":false,"torch_dtype":"bfloat16","quantization_config":{"quant_method":"fp8"}})"},
    {"deepseek-v3.2",
     R"({"model_type":"deepseek_v32","num_hidden_layers":61,"hidden_size":7168,"num_attention_heads":128,)"
     R"("num_key_value_heads":128,"intermediate_size":18432,"vocab_size":129280,)"
     R"("max_position_embeddings":163840,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,)"
     R"("v_head_dim":128,"q_lora_rank":1536,"n_routed_experts":256,"n_shared_experts":1,)"
     R"("num_experts_per_tok":8,"moe_intermediate_size":2048,"first_k_dense_replace":3,)"
     R"("tie_word_embeddings":false,"index_head_dim":128,"index_n_heads":64,"torch_dtype":"bfloat16",)"
     R"("quantization_config":{"quant_method":"fp8"}})"},
    {"kimi-k2",
     R"({"model_type":"kimi_k2","num_hidden_layers":61,"hidden_size":7168,"num_attention_heads":64,)"
     R"("num_key_value_heads":64,"intermediate_size":18432,"vocab_size":163840,)"
     R"("max_position_embeddings":131072,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":128,)"
     R"("v_head_dim":128,"q_lora_rank":1536,"n_routed_experts":384,"n_shared_experts":1,)"
     R"("num_experts_per_tok":8,"moe_intermediate_size":2048,"first_k_dense_replace":1,)"
     R"("tie_word_embeddings":false,"torch_dtype":"bfloat16","quantization_config":{"quant_method":"fp8"}})"},
    {"glm-4.7", R"({"model_type":"glm4_moe","num_hidden_layers":92,"hidden_size":5120,"num_attention_heads":96,)"
                R"("num_key_value_heads":8,"intermediate_size":12288,"vocab_size":151552,)"
                R"("max_position_embeddings":202752,"tie_word_embeddings":false,"torch_dtype":"bfloat16",)"
                R"("head_dim":128,"n_routed_experts":160,"n_shared_experts":1,"num_experts_per_tok":8,)"
                R"("moe_intermediate_size":1536,"first_k_dense_replace":3})"},
    {"glm-5", R"({"model_type":"glm_moe_dsa","num_hidden_layers":78,"hidden_size":6144,"num_attention_heads":64,)"
              R"("num_key_value_heads":64,"head_dim":64,"intermediate_size":12288,"vocab_size":154880,)"
              R"("max_position_embeddings":202752,"kv_lora_rank":512,"qk_rope_head_dim":64,"qk_nope_head_dim":192,)"
              R"("v_head_dim":256,"q_lora_rank":2048,"n_routed_experts":256,"n_shared_experts":1,)"
              R"("num_experts_per_tok":8,"moe_intermediate_size":2048,"first_k_dense_replace":3,)"
              R"("tie_word_embeddings":false,"index_head_dim":128,"index_n_heads":32,"dtype":"bfloat16"})"},
    {"gpt-oss-20b",
     R"({"model_type":"gpt_oss","num_hidden_layers":24,"hidden_size":2880,"num_attention_heads":64,)"
     R"("num_key_value_heads":8,"head_dim":64,"intermediate_size":2880,"vocab_size":201088,)"
     R"("max_position_embeddings":131072,"sliding_window":128,"num_local_experts":32,)"
     R"("num_experts_per_tok":4,"tie_word_embeddings":false,"quantization_config":{"quant_method":"mxfp4"}})"},
    {"gpt-oss-120b",
     R"({"model_type":"gpt_oss","num_hidden_layers":36,"hidden_size":2880,"num_attention_heads":64,)"
     R"("num_key_value_heads":8,"head_dim":64,"intermediate_size":2880,"vocab_size":201088,)"
     R"("max_position_embeddings":131072,"sliding_window":128,"num_local_experts":128,)"
     R"("num_experts_per_tok":4,"tie_word_embeddings":false,"quantization_config":{"quant_method":"mxfp4"}})"},
    {"falcon-7b", R"({"model_type":"falcon","num_hidden_layers":32,"hidden_size":4544,"num_attention_heads":71,)"
                  R"("vocab_size":65024,"max_position_embeddings":2048,"multi_query":true,)"
                  R"("new_decoder_architecture":false,"torch_dtype":"bfloat16"})",
     kLitgpt},
    {"falcon-40b",
     R"({"model_type":"falcon","num_hidden_layers":60,"hidden_size":8192,"num_attention_heads":128,)"
     R"("vocab_size":65024,"max_position_embeddings":2048,"new_decoder_architecture":true,"num_kv_heads":8,)"
     R"("torch_dtype":"bfloat16"})",
     kLitgpt},
    {"minimax-m2.5", R"({"model_type":"minimax_m2","num_hidden_layers":62,"hidden_size":3072,"num_attention_heads":48,)"
                     R"("num_key_value_heads":8,"head_dim":128,"intermediate_size":1536,"vocab_size":200064,)"
                     R"("max_position_embeddings":196608,"num_local_experts":256,"num_experts_per_tok":8,)"
                     R"("tie_word_embeddings":false,"quantization_config":{"quant_method":"fp8"}})"},
    {"nemotron-3-nano-30b",
     R"({"model_type":"nemotron_h","num_hidden_layers":52,"hidden_size":2688,"num_attention_heads":32,)"
     R"("num_key_value_heads":2,"head_dim":128,"intermediate_size":1856,"vocab_size":131072,)"
     R"("max_position_embeddings":262144,"n_routed_experts":128,"n_shared_experts":1,)"
     R"("num_experts_per_tok":6,"moe_intermediate_size":1856,"tie_word_embeddings":false,)"
     R"("hybrid_override_pattern":"MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",)"
     R"("mamba_num_heads":64,"mamba_head_dim":64,"ssm_state_size":128,"n_groups":8,"conv_kernel":4,)"
     R"("torch_dtype":"bfloat16","mamba_ssm_cache_dtype":"float32",)"
     R"("moe_shared_expert_intermediate_size":3712})"},
};

}  // namespace

absl::StatusOr<ModelShape> FindModel(absl::string_view name) {
  for (const Entry& entry : kModels) {
    if (name != entry.name) continue;
    STEM_ASSIGN(ModelShape shape, ParseModel(nlohmann::json::parse(entry.config), name));
    shape.source = entry.source;
    return shape;
  }
  return absl::InvalidArgumentError(absl::StrCat("no model '", name, "' in the table; use --config FILE or one of ",
                                                 absl::StrJoin(ModelNames(), ", ")));
}

absl::StatusOr<nlohmann::json> ModelConfig(absl::string_view name) {
  for (const Entry& entry : kModels) {
    if (name == entry.name) return nlohmann::json::parse(entry.config);
  }
  return absl::InvalidArgumentError(absl::StrCat("no model '", name, "' in the table"));
}

std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  for (const Entry& entry : kModels) names.emplace_back(entry.name);
  return names;
}

}  // namespace stem::planner
