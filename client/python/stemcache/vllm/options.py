"""What `kv_connector_extra_config` may say."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Options:
    """Every key of `kv_connector_extra_config`, with its default."""

    node: str = "unix:///run/stemcache/node.sock"
    load: str = "async"  # or "sync": the step that needs the blocks waits for them; not with sliding windows or several KV cache groups
    model: str = ""  # name of the model in the namespace; empty: as vLLM was told, without folders
    weights_digest: str = ""  # empty: the hub's commit, or a SHA-256 of a local model's files, read once at start
    hash_scheme: str = "xxh3"  # or "sha256", where tenants that do not trust each other share a namespace
    shared_group: str = ""
    namespace_file: str = ""  # the namespace is written there as JSON, for routers
    head_parts: int = 0  # KV heads are stored in so many parts: engines that set the same share, whatever their tensor-parallel degree; 0 = its own
    block_tokens: int = 0  # a multiple of the engine's; 0 = the smallest whose payload has min_block_bytes
    min_block_bytes: int = 256 << 10
    staging_bytes: int = 128 << 20
    load_threads: int = 1
    proof: str = "full"  # or "header": the node's own proof is trusted
    lookup_timeout_ms: int = 200
    load_timeout_ms: int = 5000
    save_timeout_ms: int = 10000


def parse(extra: dict[str, Any]) -> Options:
    """Raises ValueError naming what is not known, or of the wrong kind."""
    known = {field.name: field for field in dataclasses.fields(Options)}
    for name, value in extra.items():
        if name not in known:
            raise ValueError(f"kv_connector_extra_config has '{name}', which is not one of: {', '.join(sorted(known))}")
        wanted = type(known[name].default)
        if type(value) is not wanted:
            raise ValueError(f"kv_connector_extra_config '{name}' is {value!r}; it must be of type {wanted.__name__}")
    options = Options(**extra)
    if options.load not in ("async", "sync"):
        raise ValueError(f"kv_connector_extra_config 'load' is '{options.load}'; it must be async or sync")
    if options.head_parts < 0:
        raise ValueError(f"kv_connector_extra_config 'head_parts' is {options.head_parts}; it must be 0 or above")
    for name in ("min_block_bytes", "staging_bytes", "load_threads", "lookup_timeout_ms", "load_timeout_ms", "save_timeout_ms"):
        if getattr(options, name) <= 0:
            raise ValueError(f"kv_connector_extra_config '{name}' is {getattr(options, name)}; it must be above 0")
    return options
