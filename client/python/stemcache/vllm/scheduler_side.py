"""The half of the connector that lives beside vLLM's scheduler: which blocks a request gets from the tier, and which it gives.

Knows vLLM's objects by their attributes only, so that tests drive it with a fake engine. One thread: the scheduler's.

- A lookup never blocks: the scheduler is told to ask again until it has ended.
- A positive answer holds its stem until the load is done, or the request ends.
- What a request computed is saved a step later: then it is computed, and its tokens are accepted.
- Blocks of a save keep a reference until every rank is through with it, so a request's end waits for nothing. Those of a window are gone
  a step later: they get their reference in the step that computes them.
- A request whose load failed is offered nothing again: the scheduler does not remember, and would load for ever.
- After a load of `load_now` failed, its step computes on garbage, and steps that are planned before this side hears of it may too: what was
  computed since such a load is saved once all ranks told how it ended, or not at all.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import stemcache
from stemcache.vllm.keys import Adapters, Chain
from stemcache.vllm.options import Options
from stemcache.vllm.plan import Geometry, Group, Move, Report, StepPlan

logger = logging.getLogger("vllm.stemcache")

Tables = Sequence[list[int]]  # a request's block table of each group


@dataclasses.dataclass
class _State:
    request: Any
    chain: Chain | None = None
    adapter: Any = None  # identity of the request's LoRA adapter, as it is found before anything is computed
    adapter_after: Any = None  # and after
    call: Any = None  # a lookup that runs
    asked_blocks: int = 0
    stem: Any = None
    offered: int = 0  # blocks of the last positive answer
    pages: set[int] = dataclasses.field(default_factory=set)  # that its load writes
    sources: list[str] = dataclasses.field(default_factory=list)  # of the tokens that it loads, by block
    load_tokens: int = 0
    loading: bool = False
    uncounted: bool = False  # its load ended, and by which tier is not counted yet
    never: bool = False  # a load failed
    saved: int = 0  # blocks that were given, or came from the tier
    finished: bool = False


class SchedulerSide:
    """`client`: the attached client, or None while there is no node. `load`, `save`: what the engine's role allows."""

    def __init__(self, options: Options, geometry: Geometry, client: Callable[[], stemcache.Client | None], *, load: bool = True,
                 save: bool = True, namespace: dict | None = None) -> None:
        self._options, self._geometry, self._client = options, geometry, client
        self._load, self._save = load, save
        self._namespace = namespace
        self._attached: set[int] = set()
        self._adapters = Adapters()
        self._states: dict[str, _State] = {}
        self._plan = StepPlan()
        self._unreported: set[str] = set()  # requests of load_now that workers were told of, and did not tell of
        self._torn = False  # one of them failed
        self._held: list[Move] = []  # saves that may rest on them
        self._jobs: dict[int, tuple[str, list[Any], int]] = {}  # save -> request, blocks that it holds, ranks left
        self._next_job = 1
        self._computing: list[tuple[_State, Move]] = []  # saves of what the last step computes, and what waits for a look at its adapter
        self._pool: Any = None
        self._block_ids: Callable[[str], Tables] = lambda _: ()
        self.counts: dict[str, int] = {}

    # ---- What the scheduler gives

    def bind(self, pool: Any, block_ids: Callable[[str], Tables]) -> None:
        """`pool`: vLLM's BlockPool. `block_ids`: the block tables of a request."""
        self._pool, self._block_ids = pool, block_ids

    def on_new_request(self, request: Any) -> None:
        self._ask(self._state(request))  # the answer is there when the scheduler wants it

    def matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        state = self._state(request)
        usable = self._usable_blocks(request)
        if not self._load or state.never or usable * self._geometry.block_tokens <= computed or self._client() is None:
            return 0, False
        if state.uncounted:  # preempted: it asks anew
            self._drop_stem(state)
        if state.stem is None:
            if state.call is None and not self._ask(state):
                return (None if self._waits_for_adapter(state) else 0), False
            if not state.call.done():
                return None, False
            self._take(state)
        matched = min(state.stem.matched_blocks, usable) if state.stem is not None else 0
        external = matched * self._geometry.block_tokens - computed
        if external <= 0:
            self._drop_stem(state)
            return 0, False
        state.offered = matched
        return external, self._options.load == "async"

    def allocated(self, request: Any, block_ids: Tables, external: int) -> None:
        state = self._state(request)
        if external <= 0:
            if not state.loading:
                self._settle(state)
            return
        tokens = self._geometry.block_tokens
        computed = state.offered * tokens - external
        first = computed // tokens
        pages: list[int] = []
        for group, own in self._pages(block_ids, first, state.offered):
            have = (computed - first * tokens) // group.engine_block_tokens  # the engine's own, of the first block
            pages += [-1] * have + own[have:]
        state.pages = {page for page in pages if page >= 0}
        state.sources = [state.stem.source(block) for block in range(first, state.offered)]
        state.load_tokens, state.loading = external, True
        state.saved = max(state.saved, state.offered)
        move = Move(request.request_id, state.chain.upto(state.offered), first, pages, _traceparent(request),
                    conversation=_conversation(request))
        (self._plan.load if self._options.load == "async" else self._plan.load_now).append(move)

    def sources(self, request: Any, external: int) -> dict[str, int]:
        """Tokens of the last load by tier; empty when that is not known."""
        state = self._states.get(request.request_id)
        if state is None or state.load_tokens != external or not state.sources:
            return {}
        out: dict[str, int] = {}
        left, first = external, external - (len(state.sources) - 1) * self._geometry.block_tokens
        for index, source in enumerate(state.sources):
            tokens = first if index == 0 else min(self._geometry.block_tokens, left)
            out[source] = out.get(source, 0) + tokens
            left -= tokens
        return out

    def plan(self, scheduled: Mapping[str, int], block_ids: Callable[[str], Tables | None]) -> StepPlan:
        """The step's plan. `scheduled`: the requests that this step computes, and how many tokens of each."""
        plan, self._plan = self._plan, StepPlan()
        plan.save += self._computed()
        if len(self._attached) < self._geometry.ranks:
            plan.namespace = self._namespace
        for request_id, tokens in scheduled.items():
            state = self._states.get(request_id)
            if state is None:
                continue
            if state.uncounted:
                self._settle(state)
            computing = tokens if self._geometry.windowed else 0
            if self._save and self._new_blocks(state, computing) > 0:
                ids = block_ids(request_id)
                if ids is not None:
                    self._save_new(state, ids, plan, computing)
        self._held += plan.save
        plan.save = []
        if not self._unreported:
            plan.save, self._held = self._held, []
        self._unreported.update(move.request for move in plan.load_now)
        return plan

    def request_finished(self, request: Any, block_ids: Tables) -> None:
        state = self._states.get(request.request_id)
        if state is None:
            return
        state.finished = True
        if self._save and not state.loading:
            self._save_new(state, block_ids, self._plan)
        if not state.loading:
            self._forget(state)

    def has_work(self) -> bool:
        """Saves that workers have not heard of, or are not through with."""
        return bool(self._jobs)

    def report(self, received: set[str], failed: set[str], invalid: set[int], report: Report | None) -> None:
        """What the workers told: requests whose load ended, those whose load failed, engine blocks that were not loaded, and the rest."""
        if failed or invalid:
            self._torn = bool(self._unreported)
            self._on_failed(failed, invalid)
        for request_id in received | (report.loads_ended if report else set()):
            state = self._states.get(request_id)
            if state is None:
                continue
            state.loading = False
            state.uncounted = not state.never and state.stem is not None
            self._settle(state)
            if state.finished:
                self._forget(state)
        if report is None:
            return
        self._attached |= report.attached
        self._unreported -= report.loads_ended
        if self._torn and not self._unreported:
            self._drop_held()
        for job, ranks in report.saves_ended.items():
            self._on_save_ended(job, ranks)

    def reset(self) -> None:
        """Stems that are held are given back; what was saved may be saved again."""
        for state in self._states.values():
            if not state.loading:
                self._drop_stem(state)
            state.saved = 0

    def close(self) -> None:
        self._adapters.close()
        self._states.clear()

    def _pages(self, block_ids: Tables, first: int, end: int) -> Iterator[tuple[Group, list[int]]]:
        """Of each group its engine blocks of the blocks from `first` to `end`; -1 = it has left the window."""
        for table, group, per_block in zip(block_ids, self._geometry.groups, self._geometry.pages_per_block):
            own = table[first * per_block:end * per_block]
            yield group, [-1 if self._pool.blocks[page].is_null else page for page in own] if group.window_tokens else list(own)

    # ---- Lookups

    def _state(self, request: Any) -> _State:
        state = self._states.get(request.request_id)
        if state is None:
            state = self._states[request.request_id] = _State(request)
        state.request = request
        return state

    def _usable_blocks(self, request: Any) -> int:
        return (request.num_tokens - 1) // self._geometry.block_tokens  # something must be computed

    def _chain(self, state: _State) -> Chain | None:
        """None = no node, an adapter that is not known yet, or one that is not to be cached."""
        client = self._client()
        if state.chain is not None or client is None:
            return state.chain
        identity = None
        if (lora := getattr(state.request, "lora_request", None)) is not None:
            if state.adapter is None:
                state.adapter = self._adapters.look(lora)
            if not state.adapter.done():
                return None
            if (identity := state.adapter.result()) is None:
                state.never = True
                return None
        try:
            state.chain = Chain(client, self._geometry.block_tokens, state.request, identity)
        except stemcache.StemcacheError as error:
            logger.warning("Stemcache: request %s gets no keys: %s", state.request.request_id, error)
            state.never = True
        return state.chain

    def _waits_for_adapter(self, state: _State) -> bool:
        return not state.never and state.chain is None and getattr(state.request, "lora_request", None) is not None

    def _ask(self, state: _State) -> bool:
        """Starts a lookup; False when there is nothing to ask, or nobody."""
        usable = self._usable_blocks(state.request)
        if not self._load or state.never or usable == 0 or getattr(state.request, "skip_reading_prefix_cache", False):
            return False
        chain = self._chain(state)
        if chain is None:
            return False
        try:
            keys = chain.upto(usable)
            state.call = self._client().start_acquire(keys, request=state.request.request_id[:128], probe=chain.probe,
                                                      traceparent=_traceparent(state.request), **_conversation(state.request),
                                                      timeout_s=self._options.lookup_timeout_ms / 1000)
        except stemcache.StemcacheError:
            self._count("lookups_failed")
            return False
        state.asked_blocks = usable
        self._count("lookups")
        return True

    def _take(self, state: _State) -> None:
        try:
            state.stem = state.call.result()
        except stemcache.StemcacheError as error:
            logger.debug("Stemcache: lookup of %s: %s", state.request.request_id, error)
            self._count("lookups_failed")
        state.call = None

    def _settle(self, state: _State) -> None:
        """Gives the stem of an ended load back. The worker hears of a block from its own lookup, at times before this one does:
        then a later step counts from which tier it came."""
        if not state.uncounted or state.stem is None or state.stem.landed_blocks >= state.offered:
            self._drop_stem(state)

    def _drop_stem(self, state: _State) -> None:
        if state.uncounted:
            self._count_sources(state)
        if state.stem is not None:
            state.stem.release()
        state.stem = None
        state.call = None

    def _forget(self, state: _State) -> None:
        self._drop_stem(state)
        self._states.pop(state.request.request_id, None)

    def _count_sources(self, state: _State) -> None:
        # By this lookup: the worker's own found them here already, wherever they came from.
        state.uncounted = False
        first = state.offered - len(state.sources)
        state.sources = [state.stem.source(block) for block in range(first, state.offered)]
        for source, tokens in self.sources(state.request, state.load_tokens).items():
            self._count(f"tokens_from_{source}", tokens)

    # ---- Failed loads

    def _on_failed(self, failed: set[str], invalid: set[int]) -> None:
        for request_id, state in self._states.items():
            if state.loading and (request_id in failed or state.pages & invalid):
                state.never = True
                state.saved = 0
            elif not state.finished and invalid and any(invalid.intersection(table) for table in self._block_ids(request_id)):
                state.saved = 0  # computed on what another did not load

    def _drop_held(self) -> None:
        self._torn = False
        held, self._held = self._held, []
        self._count("saves_dropped", len(held))
        for move in held:
            if (state := self._states.get(move.request)) is not None:
                state.saved = 0
            self._on_save_ended(move.job, self._geometry.ranks)

    # ---- Saves

    def _new_blocks(self, state: _State, computing: int = 0) -> int:
        # Computed before this step, or `computing` tokens by it; and accepted: drafts that were not are beyond num_tokens.
        sure = min(state.request.num_computed_tokens + computing, state.request.num_tokens)
        return sure // self._geometry.block_tokens - state.saved

    def _adapter_stayed(self, state: _State) -> bool:
        """Whether the adapter's files are what they were before the engine may have read them. Asked once a step was computed."""
        if (lora := getattr(state.request, "lora_request", None)) is None:
            return True
        if state.adapter_after is None:
            state.adapter_after = self._adapters.look(lora)
        return state.adapter_after.done() and state.adapter_after.result() == state.adapter.result()

    def _save_new(self, state: _State, block_ids: Tables, plan: StepPlan, computing: int = 0) -> None:
        new = self._new_blocks(state, computing)
        if new <= 0 or self._pool is None or (chain := self._chain(state)) is None:
            return
        if not self._geometry.windowed and not self._adapter_stayed(state):
            return
        first, end = state.saved, state.saved + new
        pages: list[int] = []
        for group, own in self._pages(block_ids, first, end):
            if len(own) * group.engine_block_tokens < new * self._geometry.block_tokens:
                return  # the table is shorter than what was computed: freed already
            pages += own
        state.saved = end
        blocks = [self._pool.blocks[page] for page in pages if page >= 0]
        if any(block.is_null for block in blocks):
            return
        self._pool.touch(blocks)
        job = self._next_job
        self._next_job += 1
        self._jobs[job] = (state.request.request_id, blocks, self._geometry.ranks)
        move = Move(state.request.request_id, chain.upto(end), first, pages, _traceparent(state.request), job, chain.probe,
                    _conversation(state.request))
        if self._geometry.windowed:
            self._computing.append((state, move))
        else:
            plan.save.append(move)

    def _computed(self) -> list[Move]:
        """Saves of what steps before this one computed with the adapter that the keys name; in a request's order."""
        saves, later = [], []
        for state, move in self._computing:
            if any(state is each for each, _ in later):
                later.append((state, move))
            elif self._adapter_stayed(state):
                saves.append(move)
            elif state.adapter_after.done():  # it changed
                self._on_save_ended(move.job, self._geometry.ranks)
            else:
                later.append((state, move))
        self._computing = later
        return saves

    def _on_save_ended(self, job: int, ranks: int) -> None:
        if job not in self._jobs:
            return
        request, blocks, left = self._jobs[job]
        if left > ranks:
            self._jobs[job] = (request, blocks, left - ranks)
            return
        del self._jobs[job]
        self._pool.free_blocks(reversed(blocks))  # as vLLM does: the chain's end is evicted first

    def _count(self, what: str, by: int = 1) -> None:
        self.counts[what] = self.counts.get(what, 0) + by


def _traceparent(request: Any) -> str:
    return (getattr(request, "trace_headers", None) or {}).get("traceparent", "")


def _conversation(request: Any) -> dict[str, Any]:
    """What the request's `kv_transfer_params` tell of its conversation. A hint of whoever sent the request: what is no good is ignored."""
    said = getattr(request, "kv_transfer_params", None)
    name = said.get("stemcache_conversation") if isinstance(said, dict) else None
    if not isinstance(name, (str, int)) or name == "":
        return {}
    outlook = said.get("stemcache_outlook", "unknown")
    return {"conversation": stemcache.conversation_id(str(name)), "outlook": outlook if outlook in stemcache.OUTLOOKS else "unknown"}
