"""What the scheduler's side tells the workers' side in each step, and what they answer. Plain data: it is pickled."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How tier blocks lie on the engine's blocks."""

    block_tokens: int  # of a tier block
    engine_block_tokens: int
    engine_block_bytes: int  # all layers of one rank
    ranks: int

    @property
    def pages_per_block(self) -> int:
        return self.block_tokens // self.engine_block_tokens


@dataclasses.dataclass
class Move:
    """Blocks of one request to load or to save."""

    request: str
    keys: bytes  # of the chain, to the last block to move
    first_block: int
    pages: list[int]  # the engine's block ids; -1 = loaded already
    traceparent: str = ""
    job: int = 0  # of a save: its number
    probe: bytes = b""  # of the chain
    conversation: dict[str, Any] = dataclasses.field(default_factory=dict)  # what was told of it, as the client takes it


@dataclasses.dataclass
class StepPlan:
    """One step."""

    namespace: dict | None = None  # how a worker attaches, until all have
    load_now: list[Move] = dataclasses.field(default_factory=list)  # this step computes on them
    load: list[Move] = dataclasses.field(default_factory=list)
    save: list[Move] = dataclasses.field(default_factory=list)  # computed and accepted before this step
    failures_seen: dict[int, int] = dataclasses.field(default_factory=dict)  # by rank: loads of load_now that failed


@dataclasses.dataclass
class Report:
    """What one rank has to tell, or several together."""

    attached: set[int] = dataclasses.field(default_factory=set)  # ranks
    failures: dict[int, int] = dataclasses.field(default_factory=dict)  # by rank, since the start
    saves_ended: dict[int, int] = dataclasses.field(default_factory=dict)  # job -> ranks that are through with it
    saves_dropped: set[int] = dataclasses.field(default_factory=set)
    loads_ended: set[str] = dataclasses.field(default_factory=set)  # requests of load_now

    def __bool__(self) -> bool:
        return bool(self.attached or self.failures or self.saves_ended or self.saves_dropped or self.loads_ended)

    def add(self, other: Report) -> None:
        self.attached |= other.attached
        self.failures.update(other.failures)
        for job, ranks in other.saves_ended.items():
            self.saves_ended[job] = self.saves_ended.get(job, 0) + ranks
        self.saves_dropped |= other.saves_dropped
        self.loads_ended |= other.loads_ended
