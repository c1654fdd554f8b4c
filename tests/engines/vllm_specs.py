"""What vLLM itself computes for a model's KV cache, on a machine without GPU: the model is built on torch's meta device, so that each layer
says its own cache spec, and vLLM's own code makes groups and blocks of them. Nothing is loaded and nothing is downloaded.

Standard input: one JSON a line, {"name", "config": of a config.json with architectures, "context", "kv_bytes"}. Standard output: one line for
each, {"name", "block_tokens", "in_flight_tokens", "block_bytes", "blocks", "request_blocks", "tokens"} or {"name", "error"}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

MARK = "\x01spec "


def _start() -> None:
    """One rank, as vLLM's workers do; models with experts ask for their group too."""
    import vllm.distributed.parallel_state as state

    if state.model_parallel_is_initialized():
        return
    rendezvous = tempfile.NamedTemporaryFile(prefix="vllm-specs.")
    os.unlink(rendezvous.name)
    state.init_distributed_environment(1, 0, f"file://{rendezvous.name}", 0, "gloo")
    state.ensure_model_parallel_initialized(1, 1)
    if state._EP is None:
        state._EP = state.init_model_parallel_group([[0]], 0, "gloo", group_name="ep")


def _layer_specs(config: Any, of: dict[str, Any]) -> dict[str, Any]:
    import torch
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.model_executor.model_loader.utils import initialize_model

    if "linear_num_value_heads" in of:
        return _hybrid_specs(config, of)
    with torch.device("meta"):
        initialize_model(config)
    layers = config.compilation_config.static_forward_context.items()
    specs = {name: layer.get_kv_cache_spec(config) for name, layer in layers if isinstance(layer, AttentionLayerBase)}
    return {name: spec for name, spec in specs.items() if spec is not None}


def _hybrid_specs(config: Any, of: dict[str, Any]) -> dict[str, Any]:
    """Gated delta nets need packages that the CPU build lacks; their specs are made by vLLM's own classes, the block grown as vLLM grows it."""
    import torch
    from vllm.model_executor.layers.mamba.mamba_utils import MambaStateShapeCalculator
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MambaSpec

    shapes = MambaStateShapeCalculator.gated_delta_net_state_shape(
        1, of["linear_num_key_heads"], of["linear_num_value_heads"], of["linear_key_head_dim"], of["linear_value_head_dim"],
        of["linear_conv_kernel_dim"], 0)
    state = {"shapes": shapes, "dtypes": (torch.bfloat16, torch.float32), "mamba_cache_mode": "align"}
    config.cache_config.mamba_cache_mode = "align"
    attention = {"num_kv_heads": of["num_key_value_heads"], "head_size": of["head_dim"], "dtype": torch.bfloat16}
    state_bytes = MambaSpec(block_size=16, **state).page_size_bytes
    token_bytes = FullAttentionSpec(block_size=1, **attention).page_size_bytes
    block = 16 * -(-(-(-state_bytes // token_bytes)) // 16)
    config.cache_config.block_size = block
    full = FullAttentionSpec(block_size=block, **attention)
    linear = MambaSpec(block_size=block, page_size_padded=full.page_size_bytes, **state)
    every = of["full_attention_interval"]
    return {f"layer.{i}": full if (i + 1) % every == 0 else linear for i in range(of["num_hidden_layers"])}


def compute(folder: str, of: dict[str, Any], context: int, kv_bytes: int) -> dict[str, Any]:
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.utils.math_utils import cdiv
    from vllm.v1.core import kv_cache_utils

    hybrid = "linear_num_value_heads" in of
    plain = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1,
             "intermediate_size": 64, "vocab_size": 64, "max_position_embeddings": context}
    with open(os.path.join(folder, "config.json"), "w") as out:
        json.dump(plain if hybrid else of, out)
    config = EngineArgs(model=folder, skip_tokenizer_init=True, enforce_eager=True, dtype="bfloat16", load_format="dummy",
                        max_model_len=context).create_engine_config()
    config.cache_config.kv_cache_layout = "LBHNC"  # what the engine core resolves for the CPU backend
    with set_current_vllm_config(config):
        _start()
        specs = _layer_specs(config, of)
        groups = kv_cache_utils.get_kv_cache_groups(config, specs)
        pool = kv_cache_utils.get_kv_cache_config_from_groups(config, groups, kv_bytes)
        tokens, _ = kv_cache_utils.get_kv_cache_capacity(config, pool)
        request = sum(cdiv(group.kv_cache_spec.max_memory_usage_bytes(config), group.kv_cache_spec.page_size_bytes) for group in groups)
        return {"block_tokens": config.cache_config.block_size, "in_flight_tokens": config.max_in_flight_tokens, "blocks": pool.num_blocks,
                "block_bytes": kv_cache_utils._pool_bytes_per_block(config, groups), "request_blocks": request, "tokens": tokens}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's own lines go to the log
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            with tempfile.TemporaryDirectory(prefix="vllm-specs.") as folder:
                answer = compute(folder, asked["config"], asked["context"], asked["kv_bytes"])
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test wants to read it
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(MARK + json.dumps({"name": asked["name"], **answer}) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
