"""vLLM's connector to Stemcache.

    --kv-transfer-config '{"kv_connector": "StemcacheConnector", "kv_connector_module_path": "stemcache.vllm", "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"node": "unix:///run/stemcache/node.sock"}}'
"""

from stemcache.vllm.version import check

check()

from stemcache.vllm.connector import StemcacheConnector  # noqa: E402  (after the check, whose message helps more than this import's)

__all__ = ["StemcacheConnector"]
