"""The client, with what asyncio and `with` need."""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from stemcache import _core

_open: weakref.WeakSet[Client] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Threads of a client call back into Python, which must still be there.
    for client in list(_open):
        client.close()


def conversation_id(name: str) -> int:
    """The number of a conversation, e.g. of a chat's id, as `acquire`, `reserve` and `end_conversation` take it."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") or 1


async def _finished(start: Callable[[Callable[[], None]], Any]) -> Any:
    """The result of a call that `start(notify)` begins; the event loop is free meanwhile."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def notify() -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(end)

    call = start(notify)
    await ended
    return call.result()


class Client(_core.Client):
    """A client of this host's node. Any thread may call it. Every call raises `stemcache.StemcacheError` kinds; a miss is none.

    Args: node ("unix:///path/node.sock"), namespace, and by name: staging_bytes (0 = reads only), client_name, shared_group,
    proof ("full", or "header" to trust the node's own), timeout_s. Raises Unavailable when no node answers.
    """

    def __init__(self, node: str, namespace: _core.Namespace, **options: Any) -> None:
        super().__init__(node, namespace, **options)
        _open.add(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def acquire_async(self, keys: bytes, **options: Any) -> _core.Stem:
        """As `acquire`."""
        return await _finished(lambda notify: self.start_acquire(keys, notify=notify, **options))

    async def load_async(self, stem: _core.Stem, first_block: int, destinations: Iterable[Any], **options: Any) -> int:
        """As `load`."""
        return await _finished(lambda notify: self.start_load(stem, first_block, destinations, notify=notify, **options))

    async def get_async(self, keys: bytes, destinations: Iterable[Any], **options: Any) -> _core.Got:
        """As `get`."""
        return await _finished(lambda notify: self.start_get(keys, destinations, notify=notify, **options))

    async def reserve_async(self, keys: bytes, **options: Any) -> _core.Reservation:
        """As `reserve`."""
        return await _finished(lambda notify: self.start_reserve(keys, notify=notify, **options))

    async def commit_async(self, reservation: _core.Reservation, **options: Any) -> _core.Committed:
        """As `commit`."""
        return await _finished(lambda notify: self.start_commit(reservation, notify=notify, **options))
