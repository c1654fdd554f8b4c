"""vLLM's connector to Stemcache.

    --kv-transfer-config '{"kv_connector": "StemcacheConnector", "kv_connector_module_path": "stemcache.vllm", "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"node": "unix:///run/stemcache/node.sock"}}'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemcache.vllm.connector import StemcacheConnector

__all__ = ["StemcacheConnector"]


def __getattr__(name: str) -> Any:
    # When it is asked for: vLLM is a heavy import, and the two halves need none of it.
    if name != "StemcacheConnector":
        raise AttributeError(f"module 'stemcache.vllm' has no attribute '{name}'")
    from stemcache.vllm.version import check

    check()
    from stemcache.vllm.connector import StemcacheConnector

    return StemcacheConnector
