"""Which replica gets a request. Pure: no clock, no network."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

# What a token costs that is copied from the node's memory, or fetched from an SSD or another node, where one that is computed costs 1.
COPIED, FETCHED = 0.02, 0.1
IN_FLIGHT_TOKENS = 256  # what a request that is being answered costs the next one, in computed tokens


@dataclasses.dataclass(eq=False)
class Replica:
    """An engine, and the node on its host."""

    node: str
    url: str
    in_flight: int = 0
    to_compute: float = 0.0  # tokens of requests that were sent, and are not answered yet
    down_until: float = 0.0


@dataclasses.dataclass(frozen=True)
class Held:
    """Tokens of the prompt that a node holds in memory, and on SSD, and its engine in its own cache; health in 0 to 1."""

    memory: int = 0
    ssd: int = 0
    engine: int = 0
    health: float = 1.0


@dataclasses.dataclass(frozen=True)
class Choice:
    """`why`: stem (of what is held), session (nothing is held, or nobody knows), load (the session's replica is too busy)."""

    replica: Replica
    why: str
    to_compute: float


def cost(prompt_tokens: int, held: Held, anywhere: int) -> float:
    """What a replica does for a prompt, in computed tokens. `anywhere`: tokens of it that some node holds."""
    own = min(held.engine, prompt_tokens)
    copied = max(0.0, held.memory * held.health - own)
    fetched = max(0.0, max((held.memory + held.ssd) * held.health, anywhere) - own - copied)
    return max(0.0, prompt_tokens - own - copied - fetched) + copied * COPIED + fetched * FETCHED


def load(replica: Replica) -> float:
    return replica.to_compute + replica.in_flight * IN_FLIGHT_TOKENS


def by_session(replicas: Sequence[Replica], session: str) -> Replica:
    """The same for a session as long as it is there (rendezvous hashing: one that goes moves only its own sessions)."""
    return max(replicas, key=lambda replica: hashlib.sha256(f"{session}\0{replica.node}".encode()).digest())


def choose(replicas: Sequence[Replica], prompt_tokens: int, held: Sequence[Held] | None, session: str) -> Choice:
    """`replicas`: those that are up, at least one; `held`: of each, or None when nobody knows."""
    sticky = by_session(replicas, session)
    known = held if held is not None else [Held()] * len(replicas)
    anywhere = max(each.memory + each.ssd for each in known)
    held_at_all = anywhere > 0 or any(each.engine > 0 for each in known)
    costs = [cost(prompt_tokens, each, anywhere) for each in known]
    # Of equals the session's own.
    best = min(range(len(replicas)), key=lambda i: (costs[i] + load(replicas[i]), replicas[i] is not sticky))
    if held_at_all:
        return Choice(replicas[best], "stem", costs[best])
    # Without a stem all would compute alike: the session's replica, unless another would have begun a whole prompt earlier.
    if load(sticky) <= load(replicas[best]) + max(prompt_tokens, IN_FLIGHT_TOKENS):
        return Choice(sticky, "session", float(prompt_tokens))
    return Choice(replicas[best], "load", costs[best])
