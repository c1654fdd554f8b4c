"""What the scheduler's side tells the workers' side in each step, and what they answer. Plain data: it is pickled."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any


@dataclasses.dataclass(frozen=True)
class Group:
    """Layers of the engine that share a block table."""

    engine_block_tokens: int
    engine_block_bytes: int  # all its layers of one rank
    window_tokens: int = 0  # before the next token, that its layers look at; 0 = all


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How tier blocks lie on the engine's blocks. Groups of one window are one part of each head part.

    A head part is what is stored of a model's heads as one: a rank holds one, several (a multiple of the ranks), or the same one as the
    ranks beside it (of which the ranks are a multiple).
    """

    block_tokens: int  # of a tier block
    groups: tuple[Group, ...]
    ranks: int
    head_parts: int

    @functools.cached_property
    def windows(self) -> list[int]:
        """window_tokens of each kind of part."""
        return sorted({group.window_tokens for group in self.groups})

    @functools.cached_property
    def windowed(self) -> bool:
        return self.windows[-1] > 0

    @property
    def fails_by_request(self) -> bool:
        """Whether a load that failed is told by its request, and not by engine blocks: vLLM takes no ids of several groups, and what it
        would keep of a window, up to the first lost block, has nothing before it."""
        return len(self.groups) > 1 or self.windowed

    @functools.cached_property
    def pages_per_block(self) -> list[int]:
        """Of each group: engine blocks that hold a tier block's tokens."""
        return [self.block_tokens // group.engine_block_tokens for group in self.groups]

    @property
    def slices(self) -> int:
        """Into so many head parts a rank's heads are cut."""
        return max(1, self.head_parts // self.ranks)

    def head_parts_of(self, rank: int) -> range:
        first = rank * self.head_parts // self.ranks
        return range(first, first + self.slices)

    def saves(self, rank: int) -> bool:
        """Whether no rank before it holds the same heads."""
        return rank == 0 or self.head_parts_of(rank - 1) != self.head_parts_of(rank)

    def part(self, window_tokens: int, head_part: int) -> int:
        """Its id."""
        return self.windows.index(window_tokens) * self.head_parts + head_part

    def parts(self) -> list[dict[str, int]]:
        """Arguments of stemcache.Part, for each part: a range of heads, of the layers of one kind."""
        return [{"id": self.part(window, head_part), "head_first": head_part, "layer_first": kind, "window_tokens": window,
                 "block_bytes": sum(group.engine_block_bytes * pages for group, pages in zip(self.groups, self.pages_per_block)
                                    if group.window_tokens == window) // self.slices}
                for kind, window in enumerate(self.windows) for head_part in range(self.head_parts)]


@dataclasses.dataclass
class Move:
    """Blocks of one request to load or to save."""

    request: str
    keys: bytes  # of the chain, to the last block to move
    first_block: int
    pages: list[int]  # the engine's block ids, group by group; -1 = to load: not needed, or here already; to save: gone
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


@dataclasses.dataclass
class Report:
    """What one rank has to tell, or several together."""

    attached: set[int] = dataclasses.field(default_factory=set)  # ranks
    saves_ended: dict[int, int] = dataclasses.field(default_factory=dict)  # job -> ranks that are through with it
    loads_ended: set[str] = dataclasses.field(default_factory=set)  # requests of load_now

    def __bool__(self) -> bool:
        return bool(self.attached or self.saves_ended or self.loads_ended)

    def add(self, other: Report) -> None:
        self.attached |= other.attached
        for job, ranks in other.saves_ended.items():
            self.saves_ended[job] = self.saves_ended.get(job, 0) + ranks
        self.loads_ended |= other.loads_ended
