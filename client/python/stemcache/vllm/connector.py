"""vLLM's interface, and nothing else: scheduler_side.py and worker_side.py do the work."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from stemcache.vllm import identity, options
from stemcache.vllm.attach import Attachment
from stemcache.vllm.plan import Report, StepPlan
from stemcache.vllm.scheduler_side import SchedulerSide
from stemcache.vllm.stats import StemcachePromMetrics, StemcacheStats
from stemcache.vllm.worker_side import WorkerSide

logger = logging.getLogger("vllm.stemcache")

_SOURCES = {
    "local_dram": CacheHitSource.HOST,
    "remote_dram": CacheHitSource.P2P,
    "local_ssd": CacheHitSource.DISK,
    "remote_ssd": CacheHitSource.DISK,
    "none": CacheHitSource.EXTERNAL_UNSPECIFIED,  # on its way
}


@dataclasses.dataclass
class StemcacheMetadata(KVConnectorMetadata):
    """A step's plan on its way to the workers."""

    plan: StepPlan


@dataclasses.dataclass
class StemcacheWorkerMetadata(KVConnectorWorkerMetadata):
    """The workers' report on its way back."""

    report: Report

    def aggregate(self, other: KVConnectorWorkerMetadata) -> StemcacheWorkerMetadata:
        assert isinstance(other, StemcacheWorkerMetadata)
        self.report.add(other.report)
        return self


class StemcacheConnector(KVConnectorBase_V1, SupportsHMA):
    """Loads the leading blocks of a prompt that any replica of the cluster computed, and publishes what this one computes.

    Selected with --kv-transfer-config; README.md of the package has the line and what its extra configuration may say.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        transfer = vllm_config.kv_transfer_config
        self._options = options.parse(transfer.kv_connector_extra_config or {})
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        self._attachment: Attachment | None = None
        identity.check_device(vllm_config)
        geometry = identity.geometry_of(vllm_config, kv_cache_config, self._options)
        if role == KVConnectorRole.SCHEDULER:
            if transfer.kv_load_failure_policy != "recompute":
                logger.warning("Stemcache: kv_load_failure_policy is '%s': a block that is lost fails its request. Set it to "
                               "'recompute', so that the block is computed instead", transfer.kv_load_failure_policy)
            fields = identity.namespace_of(vllm_config, kv_cache_config, geometry, self._options)
            if self._options.namespace_file:
                identity.write(fields, self._options.namespace_file)
            self._attachment = self._attach(fields, "vllm-scheduler", staging_bytes=0, strict=True)
            self._scheduler = SchedulerSide(self._options, geometry, lambda: self._attachment.client, namespace=fields,
                                            load=transfer.is_kv_consumer, save=transfer.is_kv_producer)
        else:
            from vllm.distributed import get_tensor_model_parallel_rank

            rank = get_tensor_model_parallel_rank()
            self._worker = WorkerSide(
                self._options, geometry, rank,
                lambda fields: self._attach(fields, f"vllm-rank-{rank}", staging_bytes=self._options.staging_bytes),
                stream=_compute_stream)

    def _attach(self, fields: dict[str, Any], who: str, staging_bytes: int, strict: bool = False) -> Attachment:
        return Attachment(who, self._options.node, identity.namespace_from(fields), strict=strict, staging_bytes=staging_bytes,
                          shared_group=self._options.shared_group, proof=self._options.proof)

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # a save that is lost is a miss later

    # ---- The scheduler's process

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        super().bind_kv_cache_manager(kv_cache_manager)
        self._scheduler.bind(kv_cache_manager.block_pool, kv_cache_manager.get_block_ids)

    def on_new_request(self, request: Any) -> None:
        self._scheduler.on_new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._scheduler.matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._scheduler.allocated(request, blocks.get_block_ids(), num_external_tokens)

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[CacheHitSource, int]:
        out: dict[CacheHitSource, int] = {}
        for source, tokens in self._scheduler.sources(request, num_external_tokens).items():
            out[_SOURCES[source]] = out.get(_SOURCES[source], 0) + tokens
        return out or super().get_external_cache_hit_sources(request, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StemcacheMetadata:
        state = scheduler_output.kv_connector_block_state
        return StemcacheMetadata(self._scheduler.plan(scheduler_output.num_scheduled_tokens, state.get_block_ids))

    def update_connector_output(self, connector_output: Any) -> None:
        meta = connector_output.kv_connector_worker_meta
        self._scheduler.report(set(connector_output.finished_recving or ()), set(connector_output.failed_recving or ()),
                               set(connector_output.invalid_block_ids or ()), meta.report if meta is not None else None)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(self, request: Any, block_ids: tuple[list[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        self._scheduler.request_finished(request, block_ids)
        return False, None

    def has_pending_push_work(self) -> bool:
        return self._scheduler is not None and self._scheduler.has_work()

    def has_pending_block_frees(self) -> bool:
        return self._scheduler is not None and self._scheduler.has_work()

    def reset_cache(self) -> bool | None:
        if self._scheduler is not None:
            self._scheduler.reset()
        return True

    def take_events(self) -> Iterable[Any]:
        return ()

    # ---- A worker's process

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        planes, page_count = planes_of(kv_caches, self._kv_cache_config, self._worker.slices)
        device = next(iter(kv_caches.values())).device
        self._worker.register(planes, page_count, gpu=device.index if device.type == "cuda" else None)

    def start_load_kv(self, forward_context: Any, **_: Any) -> None:
        self._worker.begin(self._plan())

    def wait_for_layer_load(self, layer_name: str) -> None:
        return

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **_: Any) -> None:
        return

    def wait_for_save(self) -> None:
        self._worker.end(self._plan())

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        received, failed, self._invalid, self._report = self._worker.poll()
        return KVConnectorTransferResults(finished_recving=received, failed_recving=failed)

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._invalid

    def build_connector_worker_meta(self) -> StemcacheWorkerMetadata | None:
        return StemcacheWorkerMetadata(self._report) if self._report else None

    def shutdown(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._scheduler is not None:
            self._scheduler.close()
        if self._attachment is not None:
            self._attachment.close()

    def _plan(self) -> StepPlan:
        return self._get_connector_metadata().plan

    # ---- Counts

    def get_kv_connector_stats(self) -> StemcacheStats | None:
        side = self._worker if self._worker is not None else self._scheduler
        counts, side.counts = side.counts, {}
        return StemcacheStats(data=counts) if counts else None

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> StemcacheStats:
        return StemcacheStats(data=data or {})

    @classmethod
    def build_prom_metrics(cls, vllm_config: Any, metric_types: Any, labelnames: list[str],
                           per_engine_labelvalues: dict[int, list[object]]) -> StemcachePromMetrics:
        return StemcachePromMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)


def _compute_stream() -> int:
    import torch

    return torch.cuda.current_stream().cuda_stream


def planes_of(kv_caches: dict[str, Any], kv_cache_config: Any, slices: int = 1) -> tuple[list[list[tuple[int, int, int]]], int]:
    """Of each KV cache group: (address, bytes of a page, stride) of each plane in the order of its layers; and the number of pages.

    A layer's tensor has its blocks in its first dimension (one plane), or K and V before that (two); there a block may be several of the
    kernels' own blocks, one after another. Layers of a group that share one tensor count once; groups lie on each other's memory. Raises
    RuntimeError for any other shape, for blocks that are not one run of bytes, and for heads that cannot be cut into `slices` such runs.
    """
    blocks = kv_cache_config.num_blocks
    planes: list[list[tuple[int, int, int]]] = []
    for group in kv_cache_config.kv_cache_groups:
        caches = {name: kv_caches[name] for name in group.layer_names if name in kv_caches}
        planes.append(list(dict.fromkeys(plane for name, cache in caches.items() for plane in _planes_of_layer(name, cache, blocks))))
        if slices > 1:
            _check_heads(caches, group.kv_cache_spec, slices)
    return planes, blocks


def _planes_of_layer(name: str, cache: Any, blocks: int) -> list[tuple[int, int, int]]:
    if cache.shape[0] >= blocks and cache.shape[0] % blocks == 0:
        parts = [cache]
    elif cache.dim() > 1 and cache.shape[0] == 2 and cache.shape[1] >= blocks and cache.shape[1] % blocks == 0:
        parts = [cache[0], cache[1]]
    else:
        raise RuntimeError(f"Stemcache: the KV cache of {name} has the shape {tuple(cache.shape)}, in which {blocks} blocks are "
                           "not the first dimension, nor the second behind K and V")
    planes = []
    for part in parts:
        kernel_blocks, run = part.shape[0] // blocks, part[0].numel()
        if not _is_one_run(part[0]) or (kernel_blocks > 1 and part.stride(0) != run):
            raise RuntimeError(f"Stemcache: a block of {name} is not one run of bytes: shape {tuple(part.shape)}, strides {part.stride()}; "
                               "of vLLM's layouts (VLLM_KV_CACHE_LAYOUT) LBNHC, LBHNC, BLNHC and BLHNC are such")
        if kernel_blocks > 1 and part.dim() > 3 and part.shape[1] > 1 and part.stride(1) > part.stride(2):
            # The same bytes in another order than where a block is one of the kernels': nothing in the namespace would tell.
            raise RuntimeError(f"Stemcache: a block of {name} is {kernel_blocks} of the attention kernels' blocks, each with its heads outermost; set "
                               f"--block-size to theirs, 1/{kernel_blocks} of it, or VLLM_KV_CACHE_LAYOUT=LBNHC")
        planes.append((part.data_ptr(), kernel_blocks * run * part.element_size(), kernel_blocks * part.stride(0) * part.element_size()))
    return planes


def _check_heads(caches: dict[str, Any], spec: Any, slices: int) -> None:
    """Raises RuntimeError where a block's heads are not outermost, or its second dimension is not its KV heads."""
    for name, cache in caches.items():
        own = getattr(spec, "kv_cache_specs", {}).get(name, spec)
        heads = cache.shape[1] if cache.dim() > 1 else 0
        if (heads != getattr(own, "num_kv_heads", 0) or getattr(own, "num_head_slots", None) is not None or heads % slices != 0
                or cache.stride(1) != cache[0].numel() // heads):
            raise RuntimeError(f"Stemcache: head_parts cuts each rank's heads into {slices}, and those of {name} are not {slices} runs of bytes in "
                               f"a block: shape {tuple(cache.shape)}, strides {cache.stride()}; VLLM_KV_CACHE_LAYOUT LBHNC and BLHNC have heads "
                               "outermost, with most attention backends and unquantized caches")


def _is_one_run(tensor: Any) -> bool:
    """Whether the elements lie in memory without gaps, in whatever order of the dimensions."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape) if size > 1):
        if stride != expected:
            return False
        expected *= size
    return True
