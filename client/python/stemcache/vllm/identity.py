"""Which namespace an engine's KV belongs to: everything that must be equal for blocks to be reusable, from vLLM's configuration."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import re
from typing import Any

import stemcache
from stemcache.vllm.keys import file_digest
from stemcache.vllm.options import Options
from stemcache.vllm.plan import Geometry

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_COMMIT = re.compile("[0-9a-f]{40}")
# Formats in which vLLM reads the weights of the model that it was told, from its folder or its hub.
_FROM_THE_MODEL = ("auto", "bitsandbytes", "fastsafetensors", "gguf", "hf", "instanttensor", "mistral", "npcache", "pt", "runai_streamer",
                   "runai_streamer_sharded", "safetensors", "sharded_state")
# Of a model's configuration: says where it came from, not what it computes.
_NOT_COMPUTED = ("_name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype")


def geometry_of(vllm_config: Any, kv_cache_config: Any, options: Options) -> Geometry:
    """Raises ValueError for an engine whose cache this cannot move, saying which setting would do."""
    groups, parallel = kv_cache_config.kv_cache_groups, vllm_config.parallel_config
    if len(groups) != 1:
        raise ValueError(f"Stemcache: the model has {len(groups)} KV cache groups (sliding windows or recurrent states beside full "
                         "attention); only one is supported: start vLLM with --disable-hybrid-kv-cache-manager")
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) != 1:
            raise ValueError(f"Stemcache: {name} is {getattr(parallel, name)}; only 1 is supported")
    engine_tokens = groups[0].kv_cache_spec.block_size
    block_bytes = sum(tensor.size for tensor in kv_cache_config.kv_cache_tensors) // kv_cache_config.num_blocks
    tokens = options.block_tokens
    if tokens == 0:
        tokens = engine_tokens * max(1, -(-options.min_block_bytes // block_bytes))
    if tokens % engine_tokens != 0:
        raise ValueError(f"Stemcache: block_tokens is {tokens}; it must be a multiple of vLLM's block size, {engine_tokens}")
    return Geometry(tokens, engine_tokens, block_bytes, parallel.tensor_parallel_size)


def namespace_of(vllm_config: Any, kv_cache_config: Any, geometry: Geometry, options: Options) -> dict[str, Any]:
    """Fields of stemcache.Namespace; `parts` are the bytes of a block on each rank."""
    model = vllm_config.model_config
    spec = kv_cache_config.kv_cache_groups[0].kv_cache_spec
    kv_dtype = vllm_config.cache_config.cache_dtype
    if kv_dtype == "auto":
        kv_dtype = str(model.dtype).removeprefix("torch.")
    commit, digest = ("", options.weights_digest) if options.weights_digest else weights_of(vllm_config)
    quantization = model.quantization or ""
    layout = f"vllm1/{type(spec).__name__}/{kv_cache_config.kv_cache_layout or 'default'}/{geometry.engine_block_tokens}"
    return {
        "model": options.model or model.model.rstrip("/").rsplit("/", 1)[-1],
        "revision": f"{commit}+{_configuration_digest(vllm_config, commit)}",
        "weights_digest": digest,
        "kv_dtype": {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}.get(kv_dtype, kv_dtype),
        "scale_scheme": f"{str(model.dtype).removeprefix('torch.')}/{quantization}" if quantization or kv_dtype.startswith("fp8") else "",
        "layout": layout[:64],
        "instruction_set": instruction_set(vllm_config, spec),
        "block_tokens": geometry.block_tokens,
        "hash_scheme": options.hash_scheme,
        "parts": [geometry.engine_block_bytes * geometry.pages_per_block] * geometry.ranks,
        "tokenizer_digest": _tokenizer_digest(model.tokenizer),
    }


def namespace_from(fields: dict[str, Any]) -> stemcache.Namespace:
    """Of namespace_of's fields: a part for each rank's heads."""
    parts = [stemcache.Part(block_bytes, id=rank, head_first=rank) for rank, block_bytes in enumerate(fields["parts"])]
    return stemcache.Namespace(**{**fields, "parts": parts})


def write(fields: dict[str, Any], path: str) -> None:
    """As JSON, for routers. Who reads it sees all of it, or what was there before."""
    with open(path + ".new", "w") as out:
        json.dump(fields, out, indent=2)
    os.replace(path + ".new", path)


def instruction_set(vllm_config: Any, spec: Any) -> str:
    """How the CPU backend packs a block's bytes."""
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return _get_attn_isa(vllm_config.model_config.dtype, spec.block_size, spec.head_size, vllm_config.cache_config.cache_dtype)


def weights_of(vllm_config: Any) -> tuple[str, str]:
    """(commit of a hub, SHA-256 over the weight files), one of them empty: what names the weights that vLLM loads.

    A commit does only for weights that come from the hub, by that commit. Raises ValueError where nothing names them, saying
    what to set.
    """
    model, load = vllm_config.model_config, vllm_config.load_config
    load_format = str(getattr(load.load_format, "value", load.load_format))
    if load_format not in _FROM_THE_MODEL:
        raise ValueError(f"Stemcache: with load_format '{load_format}' nothing says which weights vLLM loads; set weights_digest in "
                         "kv_connector_extra_config if other engines have the same")
    if getattr(model, "model_weights", ""):
        raise ValueError(f"Stemcache: the weights are streamed from '{model.model_weights}', where they may change; set "
                         "weights_digest in kv_connector_extra_config to what names them")
    if os.path.exists(model.model):
        return "", _files_digest(model.model)
    commit = getattr(model.revision, "resolved", None) or model.revision or ""
    if not _COMMIT.fullmatch(commit) and (getattr(model, "hf_config_path", None) or model.model) == model.model:
        commit = getattr(model.hf_config, "_commit_hash", None) or ""
    if _COMMIT.fullmatch(commit):
        return commit, ""
    raise ValueError(f"Stemcache: '{model.model}' is no local path, and no commit of a hub is known for its weights; set weights_digest "
                     "in kv_connector_extra_config, or the revision to a commit")


def _files_digest(path: str) -> str:
    files = [path] if os.path.isfile(path) else []
    if os.path.isdir(path):
        files = sorted(os.path.join(path, name) for name in os.listdir(path) if name.endswith(_WEIGHTS))
    if not files:
        raise ValueError(f"Stemcache: no weight files ({', '.join(_WEIGHTS)}) in '{path}'; set weights_digest in "
                         "kv_connector_extra_config")
    before = [_stamp(file) for file in files]
    with concurrent.futures.ThreadPoolExecutor(min(8, len(files))) as threads:
        digests = list(threads.map(file_digest, files))
    if [_stamp(file) for file in files] != before:
        raise ValueError(f"Stemcache: the weight files in '{path}' changed while they were read, so they may not be what vLLM loaded")
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int, int]:
    stat = os.stat(path)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _configuration_digest(vllm_config: Any, commit: str) -> str:
    # With overrides (rope scaling, say), which change KV and no weight.
    model, load = vllm_config.model_config, vllm_config.load_config
    fields = {name: value for name, value in model.hf_config.to_dict().items() if name not in _NOT_COMPUTED}
    if commit:  # of one commit, these say which files are loaded
        fields["loaded"] = [model.model, str(load.load_format), str(getattr(load, "ignore_patterns", "")),
                            str(getattr(load, "model_loader_extra_config", ""))]
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _tokenizer_digest(path: str | None) -> str:
    file = os.path.join(path or "", "tokenizer.json")
    return file_digest(file) if os.path.isfile(file) else ""
