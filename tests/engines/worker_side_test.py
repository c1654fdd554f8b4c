"""The worker's half of the connector alone: what it does where blocks cannot be moved, and on a GPU."""

from __future__ import annotations

import types

import pytest

import stemcache
from stemcache.vllm import options
from stemcache.vllm.plan import Move, StepPlan
from stemcache.vllm.worker_side import WorkerSide
from tests.support.engine_specs import Spec, geometry_of


def test_pages_on_a_gpu_that_cannot_be_reached_are_refused_at_start():
    worker = WorkerSide(options.parse({}), geometry_of(Spec("FullAttentionSpec")), 0, lambda namespace: None)
    with pytest.raises((stemcache.Unavailable, stemcache.Unimplemented, stemcache.Internal)):
        worker.register([[(4096, 4096, 4096)] * 2], 10, gpu=99)


def test_a_rank_that_cannot_move_blocks_computes(monkeypatch, caplog):
    def refuse(*_, **__):
        raise stemcache.ResourceExhausted("no pinned memory")

    monkeypatch.setattr(stemcache, "PageMover", refuse)
    worker = WorkerSide(options.parse({}), geometry_of(Spec("FullAttentionSpec")), 0, lambda namespace: types.SimpleNamespace(client=object()))
    worker.register([[(4096, 4096, 4096)] * 2], 10)
    load, save = (Move(job=1, request="r", keys=b"k" * 16, first_block=0, pages=[7] * 8) for _ in range(2))
    for _ in range(2):
        worker.begin(StepPlan(namespace={}, load=[load]))
        worker.end(StepPlan(save=[save]))
    received, _, invalid, report = worker.poll()
    assert received == {"r"} and invalid == {7} and report.saves_ended == {1: 2}
    assert sum("caches nothing: no pinned memory" in record.message for record in caplog.records) == 1


class Moves:
    """A mover that is told and does nothing."""

    def __init__(self, *_, gpu, **__):
        self.gpu, self.after = gpu, []

    def submit(self, *, after, **_):
        self.after.append(after)
        return len(self.after)


@pytest.mark.parametrize("gpu", (None, 1))
def test_on_a_gpu_every_move_comes_after_what_the_engine_has_queued(monkeypatch, gpu):
    monkeypatch.setattr(stemcache, "PageMover", Moves)
    monkeypatch.setattr(stemcache, "check_gpu", lambda device: None)
    streams = iter((7, 0))
    worker = WorkerSide(options.parse({}), geometry_of(Spec("FullAttentionSpec")), 0, lambda namespace: types.SimpleNamespace(client=object()),
                        stream=lambda: next(streams))
    worker.register([[(4096, 4096, 4096)] * 2], 10, gpu=gpu)
    move = Move(job=1, request="r", keys=b"k" * 16, first_block=0, pages=[0] * 8)
    plan = StepPlan(namespace={}, load=[move], save=[move])
    worker.begin(plan)
    worker.end(plan)
    assert worker._mover.gpu == gpu and worker._mover.after == ([None, None] if gpu is None else [7, 0])
