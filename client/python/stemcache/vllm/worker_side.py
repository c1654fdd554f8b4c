"""The half of the connector that lives beside a rank's model runner: moves what the scheduler's half planned.

Copies run in threads of the client, without the GIL. One thread calls in here: the runner's.

Every load is reported as ended, failed ones too; what was not loaded is told by the ids of engine blocks, or by request.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import stemcache
from stemcache.vllm import tracing
from stemcache.vllm.options import Options
from stemcache.vllm.plan import Geometry, Move, Report, StepPlan

logger = logging.getLogger("vllm.stemcache")

@dataclasses.dataclass
class _Load:
    move: Move
    report: bool  # as received


class WorkerSide:
    """`attach(namespace)` makes an Attachment; planes: (address, bytes of a page, stride) of each group in the order of the payload.

    `stream()` is the handle of the CUDA stream on which the engine computes, for pages on a GPU.
    """

    def __init__(self, options: Options, geometry: Geometry, rank: int, attach: Callable[[dict], Any],
                 stream: Callable[[], int] | None = None) -> None:
        self._options, self._geometry, self._rank, self._attach, self._stream = options, geometry, rank, attach, stream
        self._gpu: int | None = None
        self._refused = False
        self._attachment: Any = None
        self._planes: list[list[tuple[int, int, int]]] = []
        self._page_count = 0
        self._mover: stemcache.PageMover | None = None
        self._loads: dict[int, _Load] = {}
        self._saves: dict[int, Move] = {}
        self._received: set[str] = set()
        self._failed: set[str] = set()
        self._invalid: set[int] = set()
        self._report = Report()
        self.counts: dict[str, float] = {}

    @property
    def slices(self) -> int:
        """Into so many head parts a page's heads are cut."""
        return self._geometry.slices

    def register(self, planes: list[list[tuple[int, int, int]]], page_count: int, gpu: int | None = None) -> None:
        for each, group in zip(planes, self._geometry.groups, strict=True):
            bytes_per_page = sum(page_bytes for _, page_bytes, _ in each)
            if bytes_per_page != group.engine_block_bytes:
                raise RuntimeError(f"Stemcache: the KV cache has {bytes_per_page} bytes a block over all layers of a group; the engine's "
                                   f"configuration says {group.engine_block_bytes}")
        if gpu is not None:
            stemcache.check_gpu(gpu)
        self._planes, self._page_count, self._gpu = planes, page_count, gpu

    # ---- A step

    def begin(self, plan: StepPlan) -> None:
        """Loads of the plan; those that this step computes on are done when this returns."""
        if plan.namespace is not None and self._attachment is None:
            self._attachment = self._attach(plan.namespace)
        if self._mover is None and not self._refused:
            self._make_mover()
        for move in plan.load:
            self._start_load(move)
        for move in plan.load_now:
            self._load_now(move)

    def end(self, plan: StepPlan) -> None:
        """Saves of the plan: their blocks were computed by steps before this one."""
        for move in plan.save:
            self._start_save(move)

    def poll(self) -> tuple[set[str], set[str], set[int], Report]:
        """Requests whose load ended, those of them whose load failed, engine blocks that were not loaded, and what else there is to tell."""
        for result in self._mover.poll() if self._mover is not None else ():
            if (load := self._loads.pop(result.ticket, None)) is not None:
                self._loaded(load, result)
            elif (move := self._saves.pop(result.ticket, None)) is not None:
                self._saved(result)
                self._save_ended(move)
        received, self._received = self._received, set()
        failed, self._failed = self._failed, set()
        invalid, self._invalid = self._invalid, set()
        report, self._report = self._report, Report()
        return received, failed, invalid, report

    def close(self) -> None:
        if self._mover is not None:
            self._mover.close()
        self._mover = None
        if self._attachment is not None:
            self._attachment.close()

    # ---- Parts of it

    def _make_mover(self) -> None:
        client = self._attachment.client if self._attachment is not None else None
        if client is None or not self._planes:
            return
        geometry = self._geometry
        parts = [(geometry.part(window, head_part),
                  [(address + share * page_bytes // geometry.slices, page_bytes // geometry.slices, stride, table)
                   for table, group in enumerate(geometry.groups) if group.window_tokens == window
                   for address, page_bytes, stride in self._planes[table]])
                 for window in geometry.windows for share, head_part in enumerate(geometry.head_parts_of(self._rank))]
        self._report.attached.add(self._rank)
        try:
            self._mover = stemcache.PageMover(client, parts, page_count=self._page_count, pages_per_block=geometry.pages_per_block,
                                              load_threads=self._options.load_threads, proof=self._options.proof, gpu=self._gpu)
        except stemcache.StemcacheError as error:  # pinned memory that is not to be had, say
            self._refused = True
            logger.error("Stemcache: rank %d cannot move blocks, and caches nothing: %s", self._rank, error)

    def _start_load(self, move: Move) -> None:
        load = _Load(move, report=True)
        if self._mover is None:
            return self._not_loaded(load, 0, "no node")
        try:
            ticket = self._mover.submit(save=False, **self._job(move, self._options.load_timeout_ms))
        except stemcache.StemcacheError as error:
            return self._not_loaded(load, 0, error)
        self._loads[ticket] = load

    def _load_now(self, move: Move) -> None:
        load = _Load(move, report=False)
        self._report.loads_ended.add(move.request)
        if self._mover is None:
            self._not_loaded(load, 0, "no node")
        else:
            try:
                self._loaded(load, self._mover.run(save=False, **self._job(move, self._options.load_timeout_ms)))
            except stemcache.StemcacheError as error:
                self._not_loaded(load, 0, error)

    def _loaded(self, load: _Load, result: stemcache.MoveResult) -> None:
        self._count("loads")
        self._count("load_seconds", result.took_s)
        self._count("load_bytes", result.bytes)
        tracing.scatter(load.move.traceparent, result.took_s,
                        {"request": load.move.request, "blocks": result.blocks_moved, "bytes": result.bytes, "rank": self._rank},
                        None if result.ok else result.error)
        if not result.ok:
            return self._not_loaded(load, result.blocks_moved, result.error)
        if load.report:
            self._received.add(load.move.request)

    def _not_loaded(self, load: _Load, blocks: int, why: object) -> None:
        self._count("loads_failed")
        if isinstance(why, stemcache.DataLoss):
            self._count("proofs_failed")
        pages_per_block = self._geometry.pages_per_block
        logger.warning("Stemcache: %d blocks of request %s were not loaded and are computed: %s",
                       len(load.move.pages) // sum(pages_per_block) - blocks, load.move.request, why)
        if self._geometry.fails_by_request:
            self._failed.add(load.move.request)
        else:
            self._invalid.update(page for page in load.move.pages[blocks * pages_per_block[0]:] if page >= 0)
        if load.report:
            self._received.add(load.move.request)

    def _start_save(self, move: Move) -> None:
        if self._mover is None or not self._geometry.saves(self._rank):
            return self._save_ended(move)
        try:
            ticket = self._mover.submit(save=True, **self._job(move, self._options.save_timeout_ms))
        except stemcache.StemcacheError as error:
            logger.debug("Stemcache: a save of request %s is shed: %s", move.request, error)
            self._count("saves_shed")
            return self._save_ended(move)
        self._saves[ticket] = move

    def _saved(self, result: stemcache.MoveResult) -> None:
        self._count("saves")
        self._count("save_seconds", result.took_s)
        self._count("save_bytes", result.bytes)
        self._count("blocks_saved", result.blocks_moved)
        self._count("blocks_held", result.blocks_held)
        self._count("blocks_refused", result.blocks_refused)
        if not result.ok:
            self._count("saves_failed")
            logger.debug("Stemcache: a save ended early: %s", result.error)

    def _save_ended(self, move: Move) -> None:
        self._report.saves_ended[move.job] = self._report.saves_ended.get(move.job, 0) + 1

    def _job(self, move: Move, timeout_ms: int) -> dict[str, Any]:
        # On a GPU steps are queued ahead of what has run: pages are moved once all of them that may use them have.
        return {"after": self._stream() if self._gpu is not None else None, "keys": move.keys, "first_block": move.first_block, "pages": move.pages, "timeout_s": timeout_ms / 1000,
                "request": move.request[:128], "traceparent": move.traceparent, "probe": move.probe, **move.conversation}

    def _count(self, what: str, by: float = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by
