"""LMCache's chunks as blocks: each is a chain of one block, named by LMCache's own hash, which covers the prefix already.

Only full chunks are kept, as they are in memory (remote_serde "naive"). Every failure is a miss.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import logging
import os
import threading
import time
from typing import Any

import numpy as np
from lmcache.utils import CacheEngineKey
from lmcache.v1.exceptions import IrrecoverableException
from lmcache.v1.memory_management import MemoryObj
from lmcache.v1.storage_backend.connector import ConnectorAdapter, ConnectorContext
from lmcache.v1.storage_backend.connector.base_connector import RemoteConnector

import stemcache

logger = logging.getLogger("stemcache.lmcache")

STEMS_MAX = 512  # that lookups found and no get has asked for yet
STEM_SECONDS = 10.0
_OPTIONS = {"node": "unix:///run/stemcache/node.sock", "weights_digest": "", "shared_group": "", "staging_bytes": 128 << 20,
            "lookup_timeout_ms": 200, "load_timeout_ms": 5000, "save_timeout_ms": 10000}


def _options(config: Any) -> dict[str, Any]:
    """Of extra_config's "stemcache.NAME". Raises IrrecoverableException for what would never hit, or could load wrong bytes."""
    given = {name.removeprefix("stemcache."): value for name, value in (config.extra_config or {}).items() if name.startswith("stemcache.")}
    if unknown := given.keys() - _OPTIONS.keys():
        raise IrrecoverableException(f"extra_config has 'stemcache.{min(unknown)}', which is not one of: {', '.join(sorted(_OPTIONS))}")
    options = {**_OPTIONS, **given}
    if not options["weights_digest"]:
        raise IrrecoverableException("set extra_config 'stemcache.weights_digest' to what names the weights (the hub's commit, or a digest): "
                                     "LMCache knows the model's name only, and KV of other weights would be loaded")
    if config.remote_serde not in (None, "naive"):
        raise IrrecoverableException(f"remote_serde is '{config.remote_serde}', whose chunks differ in size; set it to 'naive'")
    if config.use_layerwise:
        raise IrrecoverableException("use_layerwise is on, whose keys name a layer of a chunk; turn it off")
    if config.pre_caching_hash_algorithm == "builtin" and not os.environ.get("PYTHONHASHSEED"):
        raise IrrecoverableException("pre_caching_hash_algorithm is 'builtin' and PYTHONHASHSEED is not set: each process would have keys of "
                                     "its own, and nothing would ever hit; set the algorithm to 'sha256_cbor'")
    return options


class StemcacheAdapter(ConnectorAdapter):
    """What LMCache loads."""

    def __init__(self) -> None:
        super().__init__("plugin://stemcache")

    def create_connector(self, context: ConnectorContext) -> StemcacheRemoteConnector:
        return StemcacheRemoteConnector(context.config, context.metadata, context.local_cpu_backend)


class StemcacheRemoteConnector(RemoteConnector):
    """Raises when no node answers: LMCache tries again. Threads: the event loop's, and any for exists_sync."""

    def __init__(self, config: Any, metadata: Any, local_cpu_backend: Any) -> None:
        self._options = _options(config)
        super().__init__(config, metadata)
        self._backend = local_cpu_backend
        shapes = "+".join("x".join(map(str, shape)) for shape in self.meta_shapes)
        dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in self.meta_dtypes})
        space = stemcache.Namespace(
            model=metadata.model_name, weights_digest=self._options["weights_digest"],
            kv_dtype=dtypes[0] if len(dtypes) == 1 else "opaque", layout=f"lmcache/{self.meta_fmt.name}/{shapes}"[:64],
            block_tokens=metadata.chunk_size, hash_scheme="external",
            parts=[stemcache.Part(self.full_chunk_size_bytes, id=rank, head_first=rank) for rank in range(metadata.world_size)])
        self._client = stemcache.Client(self._options["node"], space, client_name=f"lmcache-{metadata.worker_id}", timeout_s=2.0,
                                        staging_bytes=self._options["staging_bytes"], shared_group=self._options["shared_group"])
        for warning in self._client.warnings:
            logger.warning("node %s: %s", self._client.node, warning)
        self._lock = threading.Lock()
        self._stems: collections.OrderedDict[tuple[bytes, int], tuple[float, stemcache.Stem]] = collections.OrderedDict()

    def _key(self, key: CacheEngineKey) -> bytes:
        tags = "".join(f"@{name}%{value}" for name, value in key.tags or ())
        return stemcache.Hasher(self._client).append_hash(hashlib.sha256(f"{key.chunk_hash_hex}{tags}".encode()).digest())

    def _timeout(self, what: str) -> float:
        return self._options[f"{what}_timeout_ms"] / 1000

    # ---- Lookups: a positive answer holds its stem for the get that follows

    def _hold(self, name: tuple[bytes, int], stem: stemcache.Stem) -> bool:
        if stem.matched_blocks == 0:
            return False
        now = time.monotonic()
        with self._lock:
            self._stems[name] = (now, stem)
            self._stems.move_to_end(name)
            while self._stems and (len(self._stems) > STEMS_MAX or now - next(iter(self._stems.values()))[0] > STEM_SECONDS):
                self._stems.popitem(last=False)[1][1].release()
        return True

    async def exists(self, key: CacheEngineKey) -> bool:
        try:
            name = self._key(key), key.worker_id
            return self._hold(name, await self._client.acquire_async(name[0], parts=[name[1]], timeout_s=self._timeout("lookup")))
        except stemcache.StemcacheError as error:
            logger.debug("lookup: %s", error)
            return False

    def exists_sync(self, key: CacheEngineKey) -> bool:
        try:
            name = self._key(key), key.worker_id
            return self._hold(name, self._client.acquire(name[0], parts=[name[1]], timeout_s=self._timeout("lookup")))
        except stemcache.StemcacheError as error:
            logger.debug("lookup: %s", error)
            return False

    # ---- Bytes

    async def get(self, key: CacheEngineKey) -> MemoryObj | None:
        memory = None
        try:
            name = self._key(key), key.worker_id
            with self._lock:
                _, stem = self._stems.pop(name, (0.0, None))
            memory = self._backend.allocate(self.meta_shapes, self.meta_dtypes, self.meta_fmt)
            if memory is None:
                return None
            if stem is None:
                got = await self._client.get_async(name[0], [_bytes(memory)], parts=[name[1]], timeout_s=self._timeout("load"))
                if got.blocks_loaded == 0:
                    return None
            else:
                with stem:
                    await self._client.load_async(stem, 0, [_bytes(memory)], timeout_s=self._timeout("load"))
            loaded, memory = memory, None
            return loaded
        except stemcache.StemcacheError as error:
            logger.warning("chunk %s is not loaded: %s", key.to_string(), error)
            return None
        finally:
            if memory is not None:
                memory.ref_count_down()

    async def put(self, key: CacheEngineKey, memory_obj: MemoryObj) -> None:
        content = _bytes(memory_obj)
        if len(content) != self.full_chunk_size_bytes:
            return  # the tail of a prompt
        try:
            reservation = await self._client.reserve_async(self._key(key), parts=[key.worker_id], timeout_s=self._timeout("save"))
            wanted = reservation.wanted
            if not wanted:
                reservation.abandon()  # held, or refused
                return
            # In a thread, as it is large; the copy has not the GIL.
            await asyncio.to_thread(np.copyto, np.asarray(wanted[0][2]), np.frombuffer(content, np.uint8))
            await self._client.commit_async(reservation, timeout_s=self._timeout("save"))
        except stemcache.StemcacheError as error:
            logger.warning("chunk %s is not saved: %s", key.to_string(), error)

    # ---- The rest

    async def list(self) -> list[str]:
        return []  # keys are one-way

    def support_ping(self) -> bool:
        return True

    async def ping(self) -> int:
        return 0 if self._client.connected else 1

    async def close(self) -> None:
        with self._lock:
            self._stems.clear()
        await asyncio.to_thread(self._client.close)


def _bytes(memory: MemoryObj) -> memoryview:
    return memoryview(memory.byte_array).cast("B")
