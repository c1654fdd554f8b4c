"""vLLM's connector, its two real halves driven by a fake engine against real nodes. Whatever happens to the tier, an engine answers
what an engine without it answers."""

from __future__ import annotations

import random
import types

import pytest

import stemcache
from stemcache.vllm.plan import Move, Report, StepPlan
from tests.engines.local_cluster import until
from tests.support.fake_engine import BLOCK_TOKENS, LAYERS, PAGE_BYTES, FakeEngine, Layers

# Full attention beside two groups of one window, one of them with blocks of 32 tokens: of a stem of the tier's blocks, 32 tokens each, two.
HYBRID = (Layers(), Layers(window=40), Layers(window=40, block_tokens=32))
LOADS = ("async", "sync", "hybrid")  # hybrid: async


def prompt(seed: int, tokens: int = 20 * BLOCK_TOKENS + 5) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(50000) for _ in range(tokens)]


@pytest.fixture
def engine(request):
    made = []

    def make(*args, load: str = "async", **kwargs) -> FakeEngine:
        made.append(FakeEngine(*args, **kind(load), **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def kind(load: str) -> dict:
    return {"load": "async", "groups": HYBRID} if load == "hybrid" else {"load": load}


def truth(tokens: list[int], load: str = "async", **fields) -> list[int]:
    return FakeEngine(None, **kind(load)).answer(tokens, **fields).output


def all_free(engine: FakeEngine) -> bool:
    return len(engine.pool.free) == len(engine.pool.blocks) - 1


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("pipelined", (False, True))
def test_another_engine_loads_what_the_first_computed(cluster, engine, load, pipelined):
    a, b = (engine(cluster.node(i), load=load, pipelined=pipelined) for i in (0, 1))
    tokens = prompt(1)
    first = a.answer(tokens)
    assert first.output == truth(tokens, load) and first.loaded_tokens == 0
    second = b.answer(tokens)
    assert second.output == first.output
    assert second.loaded_tokens == 20 * BLOCK_TOKENS
    assert second.computed_tokens == len(tokens) - second.loaded_tokens + 39
    assert b.scheduler.counts["tokens_from_remote_dram"] == second.loaded_tokens
    turn = b.answer(second.all_token_ids + prompt(2, 100))  # what was generated is reused too
    assert turn.output == truth(second.all_token_ids + prompt(2, 100), load)
    assert turn.loaded_tokens >= len(second.all_token_ids) - 2 * BLOCK_TOKENS
    assert all_free(a) and all_free(b)


class HeardLate:
    """The scheduler's stem, to which the node's word that blocks landed comes after the worker loaded them."""

    def __init__(self, stem, late: int):
        self.stem, self.late = stem, late

    def __getattr__(self, name):
        return getattr(self.stem, name)

    @property
    def landed_blocks(self):
        self.late -= 1
        return 0 if self.late >= 0 else self.stem.landed_blocks

    def source(self, block):
        return "none" if self.late > 0 else self.stem.source(block)


@pytest.mark.parametrize("load", LOADS)
def test_tokens_are_counted_by_tier_though_the_scheduler_hears_late_of_their_blocks(cluster, engine, load):
    a, b = (engine(cluster.node(i), load=load) for i in (0, 1))
    a.answer(prompt(41))

    def take(state, taken=b.scheduler._take):
        taken(state)
        state.stem = HeardLate(state.stem, 3)

    b.scheduler._take = take
    second = b.answer(prompt(41))
    assert b.scheduler.counts["tokens_from_remote_dram"] == second.loaded_tokens > 0
    assert "tokens_from_none" not in b.scheduler.counts


@pytest.mark.parametrize("load", LOADS)
def test_the_last_token_is_never_claimed(cluster, engine, load):
    tokens = prompt(3, 8 * BLOCK_TOKENS)  # full blocks, nothing beyond
    engine(cluster.node(0), load=load).answer(tokens)
    again = engine(cluster.node(0), load=load).answer(tokens)
    assert 0 < again.loaded_tokens < len(tokens) and again.output == truth(tokens, load)


def test_the_scheduler_is_told_to_ask_again_while_a_lookup_runs(cluster, engine):
    a = engine(cluster.node(0))
    tokens = prompt(4)
    a.answer(tokens)
    b = engine(cluster.node(0))
    started = b.scheduler._client()
    ended = False

    class Slow:
        """A call whose answer is late."""

        def __init__(self, call):
            self.call = call

        def done(self):
            return ended and self.call.done()

        def result(self):
            return self.call.result()

    b.scheduler._client = lambda: types.SimpleNamespace(start_acquire=lambda *a, **k: Slow(started.start_acquire(*a, **k)))
    b.scheduler._chain = lambda state, chain=b.scheduler._chain: _with_client(b.scheduler, started, lambda: chain(state))
    request = b.add(tokens)
    for _ in range(5):
        assert b.scheduler.matched_tokens(request, 0) == (None, False)
        b.step()
    assert request.status == "waiting"
    ended = True
    b.run()
    assert request.loaded_tokens > 0 and request.output == truth(tokens)


def test_what_a_request_tells_of_its_conversation_goes_to_the_node(cluster, engine):
    a = engine(cluster.node(0))
    plans = []
    a.scheduler.plan = lambda *args, plan=a.scheduler.plan: plans.append(plan(*args)) or plans[-1]
    chat = {"conversation": stemcache.conversation_id("chat-7"), "outlook": "will_resume"}
    tokens = prompt(31)
    for _ in range(2):  # computed and saved, then loaded
        a.answer(tokens, kv_transfer_params={"stemcache_conversation": "chat-7", "stemcache_outlook": "will_resume"})
    saved, loaded = ([move.conversation for plan in plans for move in moves(plan)] for moves in (lambda p: p.save, lambda p: p.load))
    assert saved and loaded and all(told == chat for told in saved + loaded)
    plans.clear()
    for said in ({"stemcache_conversation": ["no", "name"]}, {"do_remote_decode": True}, {"stemcache_conversation": ""}):
        a.answer(prompt(32), kv_transfer_params=said)
    assert all(move.conversation == {} for plan in plans for move in plan.save + plan.load)
    request = a.answer(prompt(33), kv_transfer_params={"stemcache_conversation": 7, "stemcache_outlook": "maybe"})
    assert request.output == truth(prompt(33)), "a hint that is no good changes nothing"
    assert plans[-1].save == [] or plans[-1].save[0].conversation["outlook"] == "unknown"


def _with_client(scheduler, client, call):
    fake, scheduler._client = scheduler._client, lambda: client
    try:
        return call()
    finally:
        scheduler._client = fake


def alter(cluster, node: int, engine: FakeEngine, tokens: list[int], block: int) -> None:
    """One bit of one published block, in the node's memory."""
    client = engine.scheduler._client()
    key = stemcache.Hasher(client).append(tokens)
    keys = [key[i:i + 16] for i in range(0, len(key), 16)]
    assert cluster.alter(node, client.fingerprint, keys[block], offset=777) == 1


@pytest.mark.parametrize("load", LOADS)
@pytest.mark.parametrize("pipelined", (False, True))
def test_an_altered_block_is_refused_computed_and_poisons_nobody(cluster, engine, load, pipelined):
    tokens = prompt(5)
    a = engine(cluster.node(0), load=load)
    a.answer(tokens)
    alter(cluster, 0, a, tokens, 4)
    b = engine(cluster.node(0), load=load, pipelined=pipelined)
    second = b.answer(tokens)
    assert second.output == truth(tokens, load)
    assert b.worker.counts["proofs_failed"] == 1
    c = engine(cluster.node(1), load=load)
    third = c.answer(tokens)
    assert third.output == truth(tokens, load), "what the second engine saved after its failed load is right"
    assert all_free(b)


def test_without_the_digest_the_altered_block_is_believed(cluster, engine):
    """The control of the test above: it is the proof that refuses, and a wrong block would show."""
    tokens = prompt(6)
    a = engine(cluster.node(0))
    a.answer(tokens)
    alter(cluster, 0, a, tokens, 4)
    assert engine(cluster.node(0), proof="header").answer(tokens).output != truth(tokens)


def test_saves_planned_before_a_failed_load_was_known_are_dropped(cluster, engine):
    """And the control: with the guard off, the third engine gets wrong tokens."""
    for guard in (True, False):
        tokens = prompt(7 + guard)
        engine(cluster.node(0)).answer(tokens[:12 * BLOCK_TOKENS])
        b = engine(cluster.node(0), load="sync", pipelined=True)
        if not guard:
            b.scheduler._unreported = Forgetful()
            b.worker.end = lambda plan, worker=b.worker: [_save_at_once(worker, move) for move in plan.save]
        torn_loads(b)
        assert b.answer(tokens).output == truth(tokens)
        assert (b.scheduler.counts.get("saves_dropped", 0) > 0) == guard
        assert (engine(cluster.node(0)).answer(tokens).output == truth(tokens)) == guard


class Forgetful(set):
    def update(self, *_) -> None:
        return


def _save_at_once(worker, move) -> None:
    worker._mover.real.run(save=True, **worker._job(move, 20000))
    worker._save_ended(move)


def torn_loads(engine: FakeEngine) -> None:
    """Loads leave garbage, and fail; saves are as ever."""

    def run(pages: list[int], **_: object) -> types.SimpleNamespace:
        engine.memory[:, [page for page in pages if page >= 0]] = 0xAA
        return types.SimpleNamespace(ok=False, blocks_moved=0, error=stemcache.Unavailable("torn"), took_s=0.0, bytes=0)

    make = engine.worker._make_mover

    def torn() -> None:
        make()
        if (mover := engine.worker._mover) is not None:
            engine.worker._mover = types.SimpleNamespace(run=run, real=mover, submit=mover.submit, poll=mover.poll, close=mover.close)

    engine.worker._make_mover = torn


@pytest.mark.parametrize("load", LOADS)
def test_a_request_whose_load_failed_is_never_offered_the_same_again(cluster, engine, load):
    tokens = prompt(9)
    engine(cluster.node(0), load=load).answer(tokens)
    b = engine(cluster.node(0), load=load, load_timeout_ms=1)

    class Stale:
        """Claims blocks that are gone, as an index does that has not heard of it."""

        def __init__(self, run):
            self.run = run

        def __call__(self, **job):
            return self.run(**{**job, "keys": bytes(len(job["keys"]))})

    attach = b.worker._make_mover

    def make() -> None:
        attach()
        if b.worker._mover is not None and not isinstance(b.worker._mover, types.SimpleNamespace):
            mover = b.worker._mover
            b.worker._mover = types.SimpleNamespace(run=Stale(mover.run), submit=_loads_fail(mover), poll=mover.poll, close=mover.close)

    def _loads_fail(mover):
        stale = Stale(mover.submit)
        return lambda save, **job: mover.submit(save=True, **job) if save else stale(save=False, **job)

    b.worker._make_mover = make
    request = b.add(tokens)
    b.run(steps_max=20000)
    assert request.output == truth(tokens, load)
    assert b.worker.counts["loads_failed"] == 1 == b.scheduler.counts["lookups"]


@pytest.mark.parametrize("load", LOADS)
def test_requests_go_on_without_the_node_and_hit_again_with_its_successor(new_cluster, engine, load):
    cluster = new_cluster(nodes=1, ssd="64MiB")
    tokens = prompt(10)
    a = engine(cluster.node(0), load=load)
    a.answer(tokens)
    cluster.stop()
    for seed in (10, 11):
        assert a.answer(prompt(seed)).output == truth(prompt(seed), load)
    cluster.up(resume=True)

    def hits() -> bool:
        request = a.answer(tokens)
        assert request.output == truth(tokens, load)
        return request.loaded_tokens > 0

    until(hits)
    assert all_free(a)


def test_an_engine_starts_without_a_node_and_attaches_when_there_is_one(new_cluster, engine):
    cluster = new_cluster(nodes=1)
    cluster.stop()
    a = engine(cluster.node(0))
    tokens = prompt(12)
    assert a.answer(tokens).output == truth(tokens)
    cluster.up(resume=True)
    until(lambda: a.answer(tokens).loaded_tokens > 0)


@pytest.mark.parametrize("load", LOADS)
def test_aborts_and_preemptions_in_every_state_leave_no_block_behind(cluster, engine, load):
    rng = random.Random(13)
    engine(cluster.node(0), load=load).answer(prompt(13))
    b = engine(cluster.node(1), load=load)
    requests = []
    for index in range(120):
        tokens = prompt(13)[:rng.randrange(40, 325)] + prompt(14 + index, rng.randrange(1, 60))
        requests.append((tokens, b.add(tokens, max_tokens=rng.randrange(1, 20))))
        for _ in range(rng.randrange(6)):
            b.step()
        victim = rng.choice(requests)[1]
        if victim.status == "finished":
            continue
        if rng.random() < 0.5:
            b.abort(victim)
            requests = [pair for pair in requests if pair[1] is not victim]
        elif victim.status == "running":
            b.preempt(victim)
    b.run()
    for tokens, request in requests:
        assert request.output == truth(tokens, load, max_tokens=request.max_tokens)
    assert all_free(b) and not b.scheduler._jobs and not b.scheduler._states


def adapter(folder, name: str, weights: bytes, number: int = 1, **fields) -> types.SimpleNamespace:
    """vLLM's LoRARequest, of files that lie there now."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "adapter_model.safetensors").write_bytes(weights)
    return types.SimpleNamespace(lora_name=name, lora_path=str(folder / name), lora_int_id=number, **fields)


def test_salts_adapters_and_models_do_not_meet(cluster, engine, tmp_path):
    tokens = prompt(15)
    a = engine(cluster.node(0))
    a.answer(tokens)
    lora = [adapter(tmp_path, name, name.encode()) for name in ("one", "two")]
    for fields in ({"cache_salt": "s"}, {"cache_salt": "t"}, {"lora_request": lora[0]}, {"lora_request": lora[1]}):
        other = a.answer(tokens, **fields)
        assert other.loaded_tokens == 0, fields
        again = a.answer(tokens, **fields)
        assert again.loaded_tokens > 0 and again.output == truth(tokens, **fields), fields
    assert engine(cluster.node(0), model="another").answer(tokens).loaded_tokens == 0


@pytest.mark.parametrize("load", ("async", "hybrid"))
def test_an_adapter_is_what_its_files_are(cluster, engine, tmp_path, load):
    tokens = prompt(18)
    a, b = engine(cluster.node(0), load=load), engine(cluster.node(0), load=load)
    a.answer(tokens, lora_request=adapter(tmp_path, "lora", b"old"))
    assert a.answer(tokens, lora_request=adapter(tmp_path, "another", b"old", 2)).loaded_tokens == 0
    replaced = adapter(tmp_path, "lora", b"new")
    assert a.answer(tokens, lora_request=replaced).loaded_tokens == 0, "the engine may hold the old or the new ones"
    assert b.answer(tokens, lora_request=replaced).loaded_tokens == 0, "and none of it was published as the new ones"
    assert b.answer(tokens, lora_request=replaced).loaded_tokens > 0
    reloaded = adapter(tmp_path, "lora", b"new", 3)
    assert a.answer(tokens, lora_request=reloaded).loaded_tokens > 0, "loaded again, it has a number of its own"


@pytest.mark.parametrize("load", ("async", "hybrid"))
def test_an_adapter_that_changed_while_the_engine_loaded_it_publishes_nothing(cluster, engine, tmp_path, load):
    tokens = prompt(19)
    a = engine(cluster.node(0), load=load)
    request = a.add(tokens, lora_request=adapter(tmp_path, "lora", b"before"))
    state = a.scheduler._states[request.request_id]
    state.adapter.result()
    adapter(tmp_path, "lora", b"after!")
    a.run()
    assert request.loaded_tokens == 0 and "saves" not in a.worker.counts
    assert engine(cluster.node(0), load=load).answer(tokens, lora_request=adapter(tmp_path, "lora", b"before")).loaded_tokens == 0


def test_adapters_that_cannot_be_read_are_computed_and_told_once(cluster, engine, tmp_path, caplog):
    tokens = prompt(20)
    a = engine(cluster.node(0))
    gone = types.SimpleNamespace(lora_name="gone", lora_path=str(tmp_path / "gone"), lora_int_id=1)
    in_place = adapter(tmp_path, "lora", b"weights", 2, load_inplace=True)
    for lora in (gone, in_place, gone, in_place):
        request = a.answer(tokens, lora_request=lora)
        assert request.loaded_tokens == 0 and request.output == truth(tokens, lora_request=lora)
    told = [record.getMessage() for record in caplog.records if "are not cached" in record.getMessage()]
    assert len(told) == 2 and "No such file" in told[0] and "load_inplace" in told[1]
    assert not a.worker.counts.get("saves")


@pytest.mark.parametrize("load", ("async", "hybrid"))
def test_drafts_that_were_not_accepted_are_not_saved(cluster, engine, load):
    a = engine(cluster.node(0), load=load)
    request = a.add(prompt(16, 6 * BLOCK_TOKENS), max_tokens=8)  # more than it can be through with in two steps
    a.step()
    a.step()
    state = a.scheduler._states[request.request_id]
    saved = state.saved
    computed = request.num_computed_tokens
    for before, computing in ((3 * BLOCK_TOKENS, 0), (0, 3 * BLOCK_TOKENS)):  # drafts, as a verifying step has them in flight
        request.num_computed_tokens = request.num_tokens + before
        assert saved + a.scheduler._new_blocks(state, computing) == request.num_tokens // a.geometry.block_tokens
    request.num_computed_tokens = computed
    a.run()


def test_roles_load_or_save_only(cluster, engine):
    tokens = prompt(17)
    reader = engine(cluster.node(0), role="kv_consumer")
    reader.answer(tokens)
    writer = engine(cluster.node(0), role="kv_producer")
    assert writer.answer(tokens).loaded_tokens == 0
    assert writer.answer(tokens).loaded_tokens == 0
    assert reader.answer(tokens).loaded_tokens > 0
    assert "saves" not in reader.worker.counts


@pytest.mark.parametrize("load", ("async", "hybrid"))
def test_many_chats_at_once_answer_as_one_at_a_time(cluster, engine, load):
    engines = [engine(cluster.node(i), load=load, blocks=400) for i in (0, 1)]
    chats = [prompt(100 + i % 4, 96) for i in range(16)]
    for turn in range(3):
        running = [(engines[(i + turn) % 2].add(chat, max_tokens=12), chat) for i, chat in enumerate(chats)]
        for each in engines:
            each.run()
        for request, chat in running:
            assert request.output == truth(chat, load, max_tokens=12)
        chats = [request.all_token_ids + prompt(1000 + i + turn, 20) for i, (request, _) in enumerate(running)]
    assert all(all_free(each) for each in engines)


def test_a_node_that_refuses_the_blocks_says_so_at_start(cluster):
    FakeEngine(cluster.node(0)).close()
    with pytest.raises(stemcache.FailedPrecondition, match="bytes does not fit the slots"):
        FakeEngine(cluster.node(0), model="larger", min_block_bytes=1 << 20)


def test_a_prompt_is_shared_up_to_any_block_though_its_windows_have_left_the_engine(cluster, engine):
    """What the first engine computed in one step leaves its window before the next one is planned."""
    system = prompt(50, 10 * BLOCK_TOKENS)
    a, b = (engine(cluster.node(i), load="hybrid", chunk_blocks=40) for i in (0, 1))
    a.answer(system + prompt(51, 12 * BLOCK_TOKENS))
    second = b.answer(system + prompt(52, 70))
    assert second.loaded_tokens == 10 * BLOCK_TOKENS and second.output == truth(system + prompt(52, 70), "hybrid")
    assert all_free(a) and all_free(b)


def test_only_the_window_of_what_is_loaded_is_moved(cluster, engine):
    tokens = prompt(53)
    engine(cluster.node(0), load="hybrid").answer(tokens)
    b = engine(cluster.node(1), load="hybrid")
    assert b.answer(tokens).loaded_tokens == 20 * BLOCK_TOKENS
    page = LAYERS * PAGE_BYTES
    # 20 pages of 16 tokens; of the window's 39 tokens before the next one 3 of 16, and 2 of 32.
    assert b.worker.counts["load_bytes"] == (20 + 3 + 2) * page


@pytest.mark.parametrize("window", (40, 1000))
@pytest.mark.parametrize("full", (True, False))
def test_windows_longer_than_the_prompt_and_models_of_nothing_else(cluster, engine, window, full):
    groups = (Layers(window=window), Layers()) if full else (Layers(window=window),)
    tokens = prompt(54)
    expected = FakeEngine(None, groups=groups).answer(tokens).output
    for node, loaded in ((0, 0), (1, 20 * BLOCK_TOKENS), (1, 20 * BLOCK_TOKENS)):
        request = engine(cluster.node(node), groups=groups).answer(tokens)
        assert request.loaded_tokens == loaded and request.output == expected


@pytest.mark.parametrize("local_blocks", (2, 10))
def test_what_the_engine_has_itself_is_not_loaded_again(cluster, engine, local_blocks):
    tokens = prompt(55)
    wide = {"load": "hybrid", "min_block_bytes": 32768}  # 64 tokens: what is here ends in the middle of a block
    engine(cluster.node(0), **wide).answer(tokens)
    b = engine(cluster.node(1), **wide)
    own = b.add(tokens[:local_blocks * BLOCK_TOKENS] + prompt(56, 3), max_tokens=30)
    while own.num_computed_tokens < local_blocks * BLOCK_TOKENS:
        b.step()
    before = b.worker.counts.get("load_bytes", 0)
    request = b.add(tokens, prefix_of=own)
    until(b.scheduler._states[request.request_id].call.done)  # before the other one moves on
    b.run()
    assert request.loaded_tokens == (20 - local_blocks) * BLOCK_TOKENS
    assert b.worker.counts["load_bytes"] - before == (20 - local_blocks + 3 + 2) * LAYERS * PAGE_BYTES
    assert request.output == truth(tokens, "hybrid") and own.output == truth(own.all_token_ids[:own.prompt_tokens], "hybrid", max_tokens=30)
    assert all_free(b)


def test_a_lost_window_is_computed_and_poisons_nobody(cluster, engine):
    tokens = prompt(57)
    engine(cluster.node(0), load="hybrid").answer(tokens)
    assert cluster.alter_all(0, offset=9000) > 0  # beyond the full part's bytes: the window's alone
    b = engine(cluster.node(0), load="hybrid")
    second = b.answer(tokens)
    assert second.output == truth(tokens, "hybrid") and second.computed_tokens > 20 * BLOCK_TOKENS
    assert b.worker.counts["proofs_failed"] == 1 == b.worker.counts["loads_failed"]
    third = engine(cluster.node(1), load="hybrid").answer(tokens)
    assert third.output == truth(tokens, "hybrid")
    assert all_free(b)


@pytest.mark.parametrize("torn", (False, True))
def test_what_is_computed_beside_a_load_waits_for_all_ranks_word_of_it(cluster, engine, torn):
    a = engine(cluster.node(0), load="sync")
    side, tokens = a.scheduler, prompt(45)
    request = a.add(tokens)
    a.run()
    ranks, told = side._geometry.ranks, []
    side._on_save_ended = lambda job, by: told.append((job, by))
    load, save = Move("other", b"k" * 16, 0, [1]), Move(request.request_id, b"k" * 16, 0, [1], job=77)
    side._plan = StepPlan(load_now=[load], save=[save])
    assert side.plan({}, {}.get).save == [save], "computed before"
    side._plan = StepPlan(save=[save])
    assert side.plan({}, {}.get).save == [], "computed beside it"
    side.report(set(), set(), {999} if torn else set(), Report(loads_ended={"other"}))
    assert told == ([(77, ranks)] if torn else [])
    assert side.plan({}, {}.get).save == ([] if torn else [save])
    side._jobs.clear()


@pytest.mark.parametrize("load", LOADS)
def test_heads_that_are_stored_in_parts_come_back(cluster, engine, load):
    a, b = (engine(cluster.node(i), load=load, head_parts=4, model="in-parts") for i in (0, 1))
    first, second = a.answer(prompt(43)), b.answer(prompt(43))
    assert second.output == first.output == truth(prompt(43), load) and second.loaded_tokens == 20 * BLOCK_TOKENS


def test_unknown_options_are_refused_by_name(cluster):
    for extra, told in (({"nodes": "x"}, "'nodes', which is not one of"), ({"load": "never"}, "async or sync"),
                        ({"load_threads": "2"}, "of type int"), ({"load_threads": 0}, "above 0")):
        with pytest.raises(ValueError, match=told):
            FakeEngine(cluster.node(0), **extra)
