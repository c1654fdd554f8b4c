"""An engine as vLLM's scheduler and model runner behave towards a connector, small enough to read, around the connector's real halves.

Its "KV" of a block is a hash of the block's tokens and of the KV before it, so wrong KV anywhere in a prefix changes every token that
is generated after it: what one engine answers is right exactly when it equals what an engine without the tier answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import time
from typing import Any

import numpy as np

from stemcache.vllm.attach import Attachment
from stemcache.vllm.options import parse
from stemcache.vllm.plan import Geometry, Group
from stemcache.vllm.scheduler_side import SchedulerSide
from stemcache.vllm.worker_side import WorkerSide

import stemcache

BLOCK_TOKENS = 16  # of the engine
LAYERS = 2  # of each group
PAGE_BYTES = 2048  # a layer of a block
NULL = 0  # the page that is nobody's


@dataclasses.dataclass(frozen=True)
class Layers:
    """A group: window as in vLLM, of the token too that is computed; 0 = full attention."""

    window: int = 0
    block_tokens: int = BLOCK_TOKENS

    def skipped(self, computed: int) -> int:
        """Blocks that the token at `computed` and those after it do not look at."""
        return max(0, computed - self.window + 1) // self.block_tokens if self.window else 0


@dataclasses.dataclass(eq=False)
class Request:
    """Attributes as vLLM's Request has them."""

    request_id: str
    all_token_ids: list[int]
    max_tokens: int
    cache_salt: str | None = None
    lora_request: Any = None
    kv_transfer_params: dict[str, Any] | None = None
    prefix_of: Request | None = None  # whose leading blocks the engine's own prefix cache has
    num_computed_tokens: int = 0
    in_flight: int = 0  # tokens of steps of which the answer was not read
    status: str = "waiting"  # loading, running, finished
    blocks: list[list[int]] = dataclasses.field(default_factory=list)  # of each group
    prompt_tokens: int = 0
    loaded_tokens: int = 0
    computed_tokens: int = 0  # by this engine, recomputed ones again
    load_failed: bool = False

    @property
    def num_tokens(self) -> int:
        return len(self.all_token_ids)

    @property
    def output(self) -> list[int]:
        return self.all_token_ids[self.prompt_tokens:]


@dataclasses.dataclass
class Block:
    block_id: int
    ref_cnt: int = 0
    is_null: bool = False


class Pool:
    """vLLM's BlockPool, as far as a connector sees it."""

    def __init__(self, count: int) -> None:
        self.blocks = [Block(i, is_null=i == 0) for i in range(count)]
        self.free = list(range(1, count))

    def touch(self, blocks: list[Block]) -> None:
        for block in blocks:
            assert block.ref_cnt > 0, "a block without an owner may be anybody's"
            block.ref_cnt += 1

    def free_blocks(self, blocks: Any) -> None:
        for block in blocks:
            block.ref_cnt -= 1
            assert block.ref_cnt >= 0
            if block.ref_cnt == 0:
                self.free.append(block.block_id)

    def take(self, count: int) -> list[int] | None:
        if len(self.free) < count:
            return None
        taken, self.free = self.free[:count], self.free[count:]
        for page in taken:
            self.blocks[page].ref_cnt = 1
        return taken


class FakeEngine:
    """node: None = without the tier. pipelined: a step is planned before the answer to the one before it was read."""

    _names = itertools.count()

    def __init__(self, node: str | None, *, blocks: int = 200, chunk_blocks: int = 4, pipelined: bool = False, role: str = "kv_both",
                 model: str = "fake", groups: tuple[Layers, ...] = (Layers(),), **extra: Any) -> None:
        self.groups = groups
        self.pool = Pool(blocks)
        self.memory = np.zeros((LAYERS, blocks, PAGE_BYTES), np.uint8)
        self.chunk_tokens, self.pipelined = chunk_blocks * BLOCK_TOKENS, pipelined
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.requests: dict[str, Request] = {}
        self.steps = 0
        self._unread: list[tuple[list[tuple[Request, int]], Any]] = []
        self._received: set[str] = set()
        self.scheduler: SchedulerSide | None = None
        if node is not None:
            self._connect(node, role, model, extra)

    def _connect(self, node: str, role: str, model: str, extra: dict[str, Any]) -> None:
        options = parse({"node": node, "min_block_bytes": 8192, "staging_bytes": 1 << 20, "lookup_timeout_ms": 20000,
                         "load_timeout_ms": 20000, **extra})
        page_bytes = LAYERS * PAGE_BYTES
        unit = math.lcm(*(group.block_tokens for group in self.groups))
        unit_bytes = sum(unit // group.block_tokens * page_bytes for group in self.groups)
        geometry = Geometry(unit * -(-options.min_block_bytes // unit_bytes),
                            tuple(Group(group.block_tokens, page_bytes, max(0, group.window - 1)) for group in self.groups),
                            ranks=1, head_parts=max(1, options.head_parts))
        fields = {"model": model, "kv_dtype": "opaque", "layout": "fake", "block_tokens": geometry.block_tokens}
        namespace = stemcache.Namespace(parts=[stemcache.Part(**part) for part in geometry.parts()], **fields)

        def attach(_: Any, staging: int = options.staging_bytes) -> Attachment:
            return Attachment("fake", node, namespace, strict=True, staging_bytes=staging, proof=options.proof)

        self.geometry = geometry
        self.attachment = attach(None, 0)
        self.scheduler = SchedulerSide(options, geometry, lambda: self.attachment.client, namespace=fields,
                                       load=role != "kv_producer", save=role != "kv_consumer")
        self.scheduler.bind(self.pool, lambda request_id: self.requests[request_id].blocks if request_id in self.requests else [])
        self.worker = WorkerSide(options, geometry, 0, attach)
        planes = [(self.memory[layer].ctypes.data, PAGE_BYTES, PAGE_BYTES) for layer in range(LAYERS)]
        self.worker.register([planes] * len(self.groups), len(self.pool.blocks))  # groups lie on each other's memory

    def close(self) -> None:
        if self.scheduler is not None:
            self.worker.close()
            self.scheduler.close()
            self.attachment.close()

    # ---- What a user does

    def add(self, tokens: list[int], max_tokens: int = 40, **fields: Any) -> Request:
        request = Request(f"r{next(self._names)}", list(tokens), max_tokens, prompt_tokens=len(tokens), **fields)
        self.requests[request.request_id] = request
        self.waiting.append(request)
        if self.scheduler is not None:
            self.scheduler.on_new_request(request)
        return request

    def run(self, steps_max: int = 200_000) -> None:
        """Until every request has ended, and the tier is through with what it was given."""
        for _ in range(steps_max):
            if not self.waiting and not self.running and not self._unread and not (self.scheduler and self.scheduler.has_work()):
                return
            if not self.step():
                time.sleep(0.001)  # as vLLM does
        raise AssertionError(f"requests are not through after {steps_max} steps: a livelock")

    def answer(self, tokens: list[int], **fields: Any) -> Request:
        request = self.add(tokens, **fields)
        self.run()
        return request

    def abort(self, request: Request) -> None:
        loading = request.status == "loading"
        for queue in (self.waiting, self.running):
            if request in queue:
                queue.remove(request)
        self._finish(request, delay=loading and request.request_id not in self._received)

    def preempt(self, request: Request) -> None:
        self.running.remove(request)
        self._release(request)
        request.num_computed_tokens, request.in_flight, request.status = 0, 0, "waiting"
        self.waiting.insert(0, request)

    # ---- A step

    def step(self) -> bool:
        """False when there was nothing to compute."""
        self.steps += 1
        for request in self.running:
            self._forget_windows(request, request.num_computed_tokens - request.in_flight)
        self._schedule_waiting()
        work = [(request, min(request.num_tokens - request.num_computed_tokens, self.chunk_tokens)) for request in list(self.running)]
        work = [(request, tokens) for request, tokens in work if tokens > 0 and self._has_room(request, tokens)]
        plan = None
        if self.scheduler is not None:
            ids = {request.request_id: request.blocks for request, _ in work}
            plan = self.scheduler.plan({request.request_id: tokens for request, tokens in work}, ids.get)
        done = self._execute(work, plan)
        self._unread.append(done)
        while len(self._unread) > (1 if self.pipelined and work else 0):
            self._read(self._unread.pop(0))
        return bool(work)

    def _schedule_waiting(self) -> None:
        # First those that hold blocks, as vLLM does: one before them may wait for these very blocks.
        for request in sorted(self.waiting, key=lambda request: request.status != "loading"):
            if request.status == "loading":
                if request.request_id not in self._received:
                    continue
                self._received.discard(request.request_id)
                if request.load_failed and request.num_computed_tokens == 0:
                    self._release(request)
                    request.status, request.load_failed = "waiting", False
                else:
                    request.num_computed_tokens = min(request.num_computed_tokens, request.num_tokens - 1)
                    request.status, request.load_failed = "running", False
                    self.waiting.remove(request)
                    self.running.append(request)
                    self.scheduler.allocated(request, request.blocks, 0)
                    continue
            local = self._local_tokens(request)
            external, is_async = (0, False) if self.scheduler is None else self.scheduler.matched_tokens(request, local)
            if external is None:
                continue
            assert local + external < request.num_tokens, "the last token must be computed"
            assert external > 0 or not is_async
            if not self._allocate(request, local, external):
                break
            if self.scheduler is not None:
                self.scheduler.allocated(request, request.blocks, external)
            request.num_computed_tokens, request.loaded_tokens = local + external, external
            request.status = "loading" if is_async else "running"
            if not is_async:
                self.waiting.remove(request)
                self.running.append(request)

    def _local_tokens(self, request: Request) -> int:
        """That the engine's own prefix cache has."""
        if request.prefix_of is None:
            return 0
        unit = math.lcm(*(group.block_tokens for group in self.groups))
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1],
                                                  zip(request.all_token_ids, request.prefix_of.all_token_ids)))
        return min(same, request.prefix_of.num_computed_tokens, request.num_tokens - 1) // unit * unit

    def _allocate(self, request: Request, local: int, external: int) -> bool:
        """As vLLM does: what the engine has itself, from the window on; then new blocks."""
        tables, wanted = [], 0
        for index, group in enumerate(self.groups):
            skipped = group.skipped(local + external)
            have = request.prefix_of.blocks[index][skipped:local // group.block_tokens] if local else []
            assert NULL not in have, "the engine's own cache ends where it has the window"
            tables.append([NULL] * skipped + have)
            wanted += -(-(request.num_tokens + request.max_tokens) // group.block_tokens) - len(tables[-1])
        if (pages := self.pool.take(wanted)) is None:
            return False
        self.memory[:, pages] = 0xEE  # what they held is gone
        for table, group in zip(tables, self.groups):
            self.pool.touch([self.pool.blocks[page] for page in table if page != NULL])
            count = -(-(request.num_tokens + request.max_tokens) // group.block_tokens) - len(table)
            table += pages[:count]
            pages = pages[count:]
        request.blocks = tables
        return True

    def _forget_windows(self, request: Request, computed: int) -> None:
        for group, table in zip(self.groups, request.blocks):
            gone = [i for i in range(min(group.skipped(computed), len(table))) if table[i] != NULL]
            self.pool.free_blocks([self.pool.blocks[table[i]] for i in reversed(gone)])
            for i in gone:
                table[i] = NULL

    def _has_room(self, request: Request, tokens: int) -> bool:
        return request.num_computed_tokens + tokens <= len(request.blocks[0]) * self.groups[0].block_tokens

    def _execute(self, work: list[tuple[Request, int]], plan: Any) -> tuple[Any, ...]:
        if plan is not None and plan.load_now:
            self.worker.begin(plan)
        outputs = []
        for request, tokens in work:
            start = request.num_computed_tokens
            if plan is not None:
                written = {page for group, table in zip(self.groups, request.blocks) for page in table[start // group.block_tokens:]}
                assert all(not (set(move.pages) & written) for move in plan.load)
            self._compute(request, start, start + tokens)
            sampled = self._sample(request) if start + tokens == request.num_tokens else None
            request.num_computed_tokens += tokens
            request.in_flight += tokens
            request.computed_tokens += tokens
            if self.pipelined and sampled is not None:
                request.all_token_ids.append(sampled)  # as a speculative scheduler, which plans with what it expects
            outputs.append((request, tokens, sampled))
        told = None
        if plan is not None:
            if not plan.load_now:
                self.worker.begin(plan)
            self.worker.end(plan)
            told = self.worker.poll()
        return outputs, told

    def _read(self, done: tuple[Any, ...]) -> None:
        outputs, told = done
        received, lost, invalid, report = told if told is not None else (set(), set(), set(), None)
        assert not invalid or len(self.groups) == 1, "ids of blocks are taken of one group only"
        failed = self._truncate(invalid) if invalid else set()
        for request in (self.requests[request_id] for request_id in lost):
            if request.status == "loading":
                request.num_computed_tokens, request.load_failed = 0, True
        for request, tokens, sampled in outputs:
            request.in_flight = max(0, request.in_flight - tokens)
            if request.status == "finished" or request in failed or sampled is None:
                continue
            if not self.pipelined:
                request.all_token_ids.append(sampled)
            if len(request.output) >= request.max_tokens:
                self.running.remove(request)
                self._finish(request, delay=False)
        if self.scheduler is not None:
            self.scheduler.report(received, lost, invalid, report if report else None)
            for request_id in received:
                request = self.requests[request_id]
                if request.status == "finished":
                    self._release(request)
                else:
                    self._received.add(request_id)

    def _truncate(self, invalid: set[int]) -> set[Request]:
        failed = set()
        for request in self.waiting + self.running:
            bad = [i for i, page in enumerate(request.blocks[0] if request.blocks else []) if page in invalid]
            if not bad or request.num_computed_tokens <= bad[0] * BLOCK_TOKENS:
                continue
            request.num_computed_tokens = bad[0] * BLOCK_TOKENS
            if request.status == "running":
                failed.add(request)
                del request.all_token_ids[max(request.prompt_tokens, request.num_computed_tokens + 1):]
            else:
                request.load_failed = True
        return failed

    def _finish(self, request: Request, delay: bool) -> None:
        request.status = "finished"
        self._forget_windows(request, request.num_computed_tokens - request.in_flight)
        if self.scheduler is not None:
            self.scheduler.request_finished(request, request.blocks)
        if not delay:
            self._release(request)

    def _release(self, request: Request) -> None:
        for table in request.blocks:
            self.pool.free_blocks([self.pool.blocks[page] for page in reversed(table) if page != NULL])
        request.blocks = []

    # ---- The model

    def _rows(self, group: int, request: Request, position: int) -> tuple[int, slice]:
        """Page, and bytes in it, of a token."""
        block, offset = divmod(position, self.groups[group].block_tokens)
        page, row = request.blocks[group][block], PAGE_BYTES // self.groups[group].block_tokens
        assert page != NULL, "a token looks at what has left the window"
        return page, slice(offset * row, (offset + 1) * row)

    def _compute(self, request: Request, start: int, end: int) -> None:
        for position in range(start, end):
            before = self._state(request, position)
            for group, layers in enumerate(self.groups):
                page, rows = self._rows(group, request, position)
                if position % layers.block_tokens == 0:
                    self.memory[:, page] = 0
                for layer in range(LAYERS):
                    digest = hashlib.blake2b(before + request.all_token_ids[position].to_bytes(4, "little") + bytes([layer + LAYERS * group]),
                                             digest_size=64)
                    self.memory[layer, page, rows] = np.frombuffer(digest.digest() * ((rows.stop - rows.start) // 64), np.uint8)

    def _state(self, request: Request, position: int) -> bytes:
        """The KV of the token before, in all layers; and which adapter runs."""
        adapter = request.lora_request.lora_name.encode() if request.lora_request else b""
        if position == 0:
            return b"start" + adapter
        read = (self._rows(group, request, position - 1) for group in range(len(self.groups)))
        return b"".join(self.memory[:, page, rows].tobytes() for page, rows in read)

    def _sample(self, request: Request) -> int:
        # Of all KV that the last token looks at: wrong bytes anywhere show at once.
        digest = hashlib.blake2b(digest_size=4)
        for group, table in zip(self.groups, request.blocks):
            pages = table[group.skipped(request.num_tokens - 1):request.num_tokens // group.block_tokens]
            assert NULL not in pages
            digest.update(self.memory[:, pages].tobytes())
        digest.update(self._state(request, request.num_tokens))
        return int.from_bytes(digest.digest(), "little") % 50000
