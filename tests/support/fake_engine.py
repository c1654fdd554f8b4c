"""An engine as vLLM's scheduler and model runner behave towards a connector, small enough to read, around the connector's real halves.

Its "KV" of a block is a hash of the block's tokens and of the KV before it, so wrong KV anywhere in a prefix changes every token that
is generated after it: what one engine answers is right exactly when it equals what an engine without the tier answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from typing import Any

import numpy as np

from stemcache.vllm.attach import Attachment
from stemcache.vllm.options import parse
from stemcache.vllm.plan import Geometry
from stemcache.vllm.scheduler_side import SchedulerSide
from stemcache.vllm.worker_side import WorkerSide

import stemcache

BLOCK_TOKENS = 16  # of the engine
LAYERS = 2
PAGE_BYTES = 2048  # a layer of a block


@dataclasses.dataclass(eq=False)
class Request:
    """Attributes as vLLM's Request has them."""

    request_id: str
    all_token_ids: list[int]
    max_tokens: int
    cache_salt: str | None = None
    lora_request: Any = None
    kv_transfer_params: dict[str, Any] | None = None
    num_computed_tokens: int = 0
    status: str = "waiting"  # loading, running, finished
    blocks: list[int] = dataclasses.field(default_factory=list)
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
                 model: str = "fake", **extra: Any) -> None:
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
        geometry = Geometry(BLOCK_TOKENS * -(-options.min_block_bytes // page_bytes), BLOCK_TOKENS, page_bytes, ranks=1)
        fields = {"model": model, "kv_dtype": "opaque", "layout": "fake", "block_tokens": geometry.block_tokens}
        namespace = stemcache.Namespace(parts=[stemcache.Part(page_bytes * geometry.pages_per_block)], **fields)

        def attach(_: Any, staging: int = options.staging_bytes) -> Attachment:
            return Attachment("fake", node, namespace, strict=True, staging_bytes=staging, proof=options.proof)

        self.geometry = geometry
        self.attachment = attach(None, 0)
        self.scheduler = SchedulerSide(options, geometry, lambda: self.attachment.client, namespace=fields,
                                       load=role != "kv_producer", save=role != "kv_consumer")
        self.scheduler.bind(self.pool, lambda request_id: self.requests[request_id].blocks if request_id in self.requests else [])
        self.worker = WorkerSide(options, geometry, 0, attach)
        stride = PAGE_BYTES
        self.worker.register([(self.memory[layer].ctypes.data, PAGE_BYTES, stride) for layer in range(LAYERS)], len(self.pool.blocks))

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
        request.num_computed_tokens, request.status = 0, "waiting"
        self.waiting.insert(0, request)

    # ---- A step

    def step(self) -> bool:
        """False when there was nothing to compute."""
        self.steps += 1
        self._schedule_waiting()
        work = [(request, min(request.num_tokens - request.num_computed_tokens, self.chunk_tokens)) for request in list(self.running)]
        work = [(request, tokens) for request, tokens in work if tokens > 0 and self._has_room(request, tokens)]
        plan = None
        if self.scheduler is not None:
            ids = {request.request_id: request.blocks for request, _ in work}
            plan = self.scheduler.plan(list(ids), ids.get)
        done = self._execute(work, plan)
        self._unread.append(done)
        while len(self._unread) > (1 if self.pipelined and work else 0):
            self._read(self._unread.pop(0))
        return bool(work)

    def _schedule_waiting(self) -> None:
        for request in list(self.waiting):
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
            external, is_async = (0, False) if self.scheduler is None else self.scheduler.matched_tokens(request, 0)
            if external is None:
                continue
            assert external < request.num_tokens, "the last token must be computed"
            assert external > 0 or not is_async
            request.blocks = self.pool.take(-(-(request.num_tokens + request.max_tokens) // BLOCK_TOKENS))
            if request.blocks is None:
                request.blocks = []
                break
            if self.scheduler is not None:
                self.scheduler.allocated(request, request.blocks, external)
            request.num_computed_tokens = request.loaded_tokens = external
            request.status = "loading" if is_async else "running"
            if not is_async:
                self.waiting.remove(request)
                self.running.append(request)

    def _has_room(self, request: Request, tokens: int) -> bool:
        return request.num_computed_tokens + tokens <= len(request.blocks) * BLOCK_TOKENS

    def _execute(self, work: list[tuple[Request, int]], plan: Any) -> tuple[Any, ...]:
        if plan is not None and plan.load_now:
            self.worker.begin(plan)
        outputs = []
        for request, tokens in work:
            start = request.num_computed_tokens
            if plan is not None:
                assert all(not (set(move.pages) & set(request.blocks[start // BLOCK_TOKENS:])) for move in plan.load)
            self._compute(request, start, start + tokens)
            sampled = self._sample(request) if start + tokens == request.num_tokens else None
            request.num_computed_tokens += tokens
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
        received, invalid, report = told if told is not None else (set(), set(), None)
        failed = self._truncate(invalid) if invalid else set()
        for request, _, sampled in outputs:
            if request.status == "finished" or request in failed or sampled is None:
                continue
            if not self.pipelined:
                request.all_token_ids.append(sampled)
            if len(request.output) >= request.max_tokens:
                self.running.remove(request)
                self._finish(request, delay=False)
        if self.scheduler is not None:
            self.scheduler.report(received, invalid, report if report else None)
            for request_id in received:
                request = self.requests[request_id]
                if request.status == "finished":
                    self._release(request)
                else:
                    self._received.add(request_id)

    def _truncate(self, invalid: set[int]) -> set[Request]:
        failed = set()
        for request in self.waiting + self.running:
            bad = [i for i, page in enumerate(request.blocks) if page in invalid]
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
        if self.scheduler is not None:
            self.scheduler.request_finished(request, request.blocks)
        if not delay:
            self._release(request)

    def _release(self, request: Request) -> None:
        self.pool.free_blocks([self.pool.blocks[page] for page in reversed(request.blocks)])
        request.blocks = []

    # ---- The model

    def _compute(self, request: Request, start: int, end: int) -> None:
        for position in range(start, end):
            block, offset = divmod(position, BLOCK_TOKENS)
            page = request.blocks[block]
            if offset == 0:
                self.memory[:, page] = 0
            before = self._state(request, position)
            for layer in range(LAYERS):
                digest = hashlib.blake2b(before + request.all_token_ids[position].to_bytes(4, "little") + bytes([layer]), digest_size=64)
                row = PAGE_BYTES // BLOCK_TOKENS
                self.memory[layer, page, offset * row:(offset + 1) * row] = np.frombuffer(digest.digest() * (row // 64), np.uint8)

    def _state(self, request: Request, position: int) -> bytes:
        """The KV of the token before, in all layers; and which adapter runs."""
        adapter = request.lora_request.lora_name.encode() if request.lora_request else b""
        if position == 0:
            return b"start" + adapter
        block, offset = divmod(position - 1, BLOCK_TOKENS)
        row = PAGE_BYTES // BLOCK_TOKENS
        return self.memory[:, request.blocks[block], offset * row:(offset + 1) * row].tobytes()

    def _sample(self, request: Request) -> int:
        # Of all KV: wrong bytes anywhere show at once.
        digest = hashlib.blake2b(digest_size=4)
        digest.update(self.memory[:, request.blocks[:request.num_tokens // BLOCK_TOKENS]].tobytes())
        digest.update(self._state(request, request.num_tokens))
        return int.from_bytes(digest.digest(), "little") % 50000
