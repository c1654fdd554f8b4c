"""Queries, keys and values of a real model's full-attention layers, for `retention_error`: Gemma 3 270M reads source code of Python's own
library, and what its full layers attend with (after rotary positions) is written as float32.

    gemma_attention.py MODEL_FOLDER OUT_FILE [--tokens 2048]

MODEL_FOLDER: Gemma 3 270M as transformers reads it. File: u32 layers, query heads, key heads, tokens, dims; then for each layer queries
[heads][tokens][dims], keys and values [key heads][tokens][dims].
"""

from __future__ import annotations

import argparse
import inspect
import struct
import textwrap

import torch
import transformers
from transformers.models.gemma3 import modeling_gemma3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(arguments.model, attn_implementation="eager", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.model)
    ids = [2] + tokenizer(inspect.getsource(textwrap), add_special_tokens=False)["input_ids"]
    assert len(ids) >= arguments.tokens, f"the text has {len(ids)} tokens"
    captured: dict[int, tuple[torch.Tensor, ...]] = {}
    inner = modeling_gemma3.eager_attention_forward

    def capture(module, query, key, value, *rest, **options):
        if not getattr(module, "is_sliding", False) and getattr(module, "sliding_window", None) is None:
            captured[module.layer_idx] = (query[0], key[0], value[0])
        return inner(module, query, key, value, *rest, **options)

    modeling_gemma3.eager_attention_forward = capture
    with torch.no_grad():
        model(torch.tensor([ids[:arguments.tokens]]))
    assert captured, "no full-attention layer was seen"
    query, key, _ = next(iter(captured.values()))
    with open(arguments.out, "wb") as out:
        out.write(struct.pack("<5I", len(captured), query.shape[0], key.shape[0], query.shape[1], query.shape[2]))
        for layer in sorted(captured):
            for tensor in captured[layer]:
                out.write(tensor.contiguous().float().numpy().tobytes())
    print(f"layers {sorted(captured)}, {query.shape[0]} query heads, {key.shape[0]} key heads, {query.shape[1]} tokens of {query.shape[2]}")


if __name__ == "__main__":
    main()
