"""LMCache's remote storage plugin. In LMCache's configuration:

    remote_storage_plugins: ["stemcache"]
    pre_caching_hash_algorithm: sha256_cbor
    extra_config:
      remote_storage_plugin.stemcache.module_path: stemcache.lmcache
      remote_storage_plugin.stemcache.class_name: StemcacheAdapter
      stemcache.node: unix:///run/stemcache/node.sock
      stemcache.weights_digest: <the weights' commit or digest: LMCache knows the model's name only>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemcache.lmcache.connector import StemcacheAdapter, StemcacheRemoteConnector

__all__ = ["StemcacheAdapter", "StemcacheRemoteConnector"]


def __getattr__(name: str) -> Any:
    if name not in __all__:  # LMCache is imported when it is asked for
        raise AttributeError(f"module 'stemcache.lmcache' has no attribute '{name}'")
    from stemcache.lmcache import connector

    return getattr(connector, name)
