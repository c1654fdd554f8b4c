"""What the connector counts, through vLLM's own hooks: its log line, and series of its /metrics."""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats
from vllm.v1.metrics.utils import create_metric_per_engine

# name -> (what it is counted in /metrics as, its labels, help)
_TIERS = ("local_dram", "remote_dram", "local_ssd", "remote_ssd")
_SERIES = {
    "loads": ("vllm:stemcache_loads", "Loads of a request's blocks from the tier, failed ones too"),
    "loads_failed": ("vllm:stemcache_loads_failed", "Loads of which a block was missing or failed its proof; it was computed"),
    "proofs_failed": ("vllm:stemcache_proofs_failed", "Blocks refused because their bytes were not what was published"),
    "load_seconds": ("vllm:stemcache_load_seconds", "Time spent loading"),
    "load_bytes": ("vllm:stemcache_load_bytes", "Bytes copied into the KV cache"),
    "saves": ("vllm:stemcache_saves", "Saves of a request's blocks to the tier"),
    "saves_failed": ("vllm:stemcache_saves_failed", "Saves that the node refused in part, or that ran out of time"),
    "saves_shed": ("vllm:stemcache_saves_shed", "Saves dropped because too many waited"),
    "saves_dropped": ("vllm:stemcache_saves_dropped", "Saves dropped because they may rest on a load that failed"),
    "save_seconds": ("vllm:stemcache_save_seconds", "Time spent saving"),
    "save_bytes": ("vllm:stemcache_save_bytes", "Bytes copied out of the KV cache"),
    "blocks_saved": ("vllm:stemcache_blocks_saved", "Blocks published; of hybrid models each part counts"),
    "blocks_held": ("vllm:stemcache_blocks_held", "Blocks not published because the node has them"),
    "blocks_refused": ("vllm:stemcache_blocks_refused", "Blocks that the node refused"),
    "lookups": ("vllm:stemcache_lookups", "Lookups of a request's stem"),
    "lookups_failed": ("vllm:stemcache_lookups_failed", "Lookups without an answer in time"),
    **{f"tokens_from_{tier}": (f"vllm:stemcache_tokens_from_{tier}", f"Tokens loaded, proved, that were in {tier.replace('_', ' ')}")
       for tier in _TIERS},
}


class StemcacheStats(KVConnectorStats):
    """Sums by name since the last report."""

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> StemcacheStats:
        for name, value in other.data.items():
            self.data[name] = self.data.get(name, 0) + value
        return self

    def reduce(self) -> dict[str, int | float]:
        return {f"stemcache_{name}": round(value, 6) if isinstance(value, float) else value for name, value in self.data.items()}

    def is_empty(self) -> bool:
        return not self.data


class StemcachePromMetrics(KVConnectorPromMetrics):
    """One counter a name."""

    def __init__(self, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: dict[int, list[object]]):
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        self._counters = {
            name: create_metric_per_engine(self._counter_cls(name=series, documentation=text, labelnames=labelnames),
                                           per_engine_labelvalues)
            for name, (series, text) in _SERIES.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        for name, value in transfer_stats_data.items():
            if name in self._counters:
                self._counters[name][engine_idx].inc(value)
