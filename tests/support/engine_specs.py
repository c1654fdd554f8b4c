"""What vLLM says of a model's KV cache, as far as the connector looks at it, and the geometry that the connector makes of it."""

from __future__ import annotations

import types

from stemcache.vllm import identity, options


class Spec:
    """A KV cache spec of vLLM's, by its name: what the connector looks at."""

    def __new__(cls, kind: str, **fields):
        return type(kind, (), {"block_size": 16, "page_size_bytes": 4096, "unpadded_page_size_bytes": 4096, **fields})()


def geometry_of(*specs, layers: int = 2, load: str = "async", **extra):
    parallel = types.SimpleNamespace(tensor_parallel_size=extra.pop("ranks", 1))
    groups = [types.SimpleNamespace(kv_cache_spec=spec, layer_names=[f"{i}.{n}" for n in range(layers)]) for i, spec in enumerate(specs)]
    cache = types.SimpleNamespace(kv_cache_groups=groups, num_blocks=10, kv_tp_replicas=extra.pop("replicas", 1), kv_cache_tensors=[types.SimpleNamespace(size=layers * 4096 * 10)] * len(specs))
    return identity.geometry_of(types.SimpleNamespace(parallel_config=parallel), cache, options.parse({"load": load, "min_block_bytes": 65536, **extra}))
