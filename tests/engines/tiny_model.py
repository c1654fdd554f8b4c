"""A small Llama with random weights and a byte-level tokenizer, made here: nothing is downloaded. Or a Gemma, which has sliding windows.

    tiny_model.py FOLDER [--layers N] [--hidden N] [--seed N]
"""

from __future__ import annotations

import argparse
import os


def make(folder: str, layers: int = 4, hidden: int = 512, seed: int = 0, vocabulary: int = 4096) -> str:
    """Weights wide enough apart that greedy tokens depend on the whole prompt. Returns the folder; made once."""
    if os.path.exists(os.path.join(folder, "model.safetensors")):
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=vocabulary, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
                         num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=16384, initializer_range=0.05,
                         bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False)
    LlamaForCausalLM(config).float().save_pretrained(folder)
    _save_tokenizer(folder, vocabulary)
    return folder


def make_hybrid(folder: str, window: int = 256, full: bool = True, vocabulary: int = 4096) -> str:
    """The same with two layers of full attention and four of `window` tokens, or with windows only. Returns the folder; made once."""
    if os.path.exists(os.path.join(folder, "model.safetensors")):
        return folder
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(vocab_size=vocabulary, hidden_size=512, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=8,
                              num_key_value_heads=2, head_dim=64, query_pre_attn_scalar=64, max_position_embeddings=16384, sliding_window=window,
                              layer_types=["sliding_attention", "sliding_attention", "full_attention" if full else "sliding_attention"] * 2,
                              initializer_range=0.05, bos_token_id=None, eos_token_id=None, pad_token_id=None, tie_word_embeddings=False)
    Gemma3ForCausalLM(config).float().save_pretrained(folder)
    _save_tokenizer(folder, vocabulary)
    return folder


def _save_tokenizer(folder: str, vocabulary: int) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {letter: index for index, letter in enumerate(letters)}
    words.update({f"<{index}>": index for index in range(len(letters), vocabulary)})
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def make_adapter(folder: str, model: str, seed: int, rank: int = 8) -> str:
    """A LoRA adapter of a model of make(), in PEFT's format, strong enough to change every token. Returns the folder."""
    import json

    import torch
    from safetensors.torch import save_file

    with open(os.path.join(model, "config.json")) as text:
        config = json.load(text)
    hidden = config["hidden_size"]
    key_values = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        for name, out in (("q_proj", hidden), ("v_proj", key_values)):
            module = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, hidden, generator=random) * 0.2
            weights[f"{module}.lora_B.weight"] = torch.randn(out, rank, generator=random) * 0.2
    os.makedirs(folder, exist_ok=True)
    save_file(weights, os.path.join(folder, "adapter_model.safetensors"))
    with open(os.path.join(folder, "adapter_config.json"), "w") as text:
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj", "v_proj"],
                   "bias": "none"}, text)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.layers, arguments.hidden, arguments.seed)


if __name__ == "__main__":
    main()
