"""The Python client against real nodes: keys, memory of any kind in and out, calls that wait and calls of asyncio, errors by kind."""

from __future__ import annotations

import array
import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import stemcache

BLOCK_BYTES = 16384


def namespace(**fields) -> stemcache.Namespace:
    fields = {"model": "m", "kv_dtype": "opaque", "layout": "l", "block_tokens": 16, **fields}
    return stemcache.Namespace(parts=[stemcache.Part(BLOCK_BYTES)], **fields)


def payload(block: int) -> np.ndarray:
    return ((np.arange(BLOCK_BYTES) * 7 + block * 31) % 251).astype(np.uint8)


def publish(client: stemcache.Client, keys: bytes, **told) -> int:
    reservation = client.reserve(keys, timeout_s=20, **told)
    for block, _, staging in reservation.wanted:
        np.asarray(staging)[:] = payload(block)
    return client.commit(reservation, timeout_s=20).committed


APART = f"""
import sys, threading, time
import numpy as np
import stemcache

BLOCK_BYTES = {BLOCK_BYTES}

def connect():
    space = stemcache.Namespace(model="m", kv_dtype="opaque", layout="l", block_tokens=16, parts=[stemcache.Part(BLOCK_BYTES)])
    client = stemcache.Client(sys.argv[1], space, timeout_s=20)
    return client, stemcache.Hasher(client).append(range(5 * 16))
"""


def apart(cluster, code: str) -> str:
    """What a process of its own prints: one that hangs with the GIL held, or dies, is a test that failed."""
    done = subprocess.run([sys.executable, "-c", APART + code, cluster.node(0)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr}"
    return done.stdout


@pytest.fixture
def client(cluster):
    with stemcache.Client(cluster.node(0), namespace(), timeout_s=20) as client:
        yield client


@pytest.fixture
def keys(client) -> bytes:
    return stemcache.Hasher(client).append(range(100, 100 + 5 * 16 + 3))


def test_a_namespace_may_have_its_spilled_blocks_as_codes(cluster):
    assert namespace().spill_encoding == "exact"
    lossy = namespace(kv_dtype="bf16", spill_encoding="int8")
    assert lossy.differing_fields(namespace(kv_dtype="bf16"))
    with stemcache.Client(cluster.node(0), lossy, timeout_s=20) as client:
        assert publish(client, stemcache.Hasher(client).append(range(32))) == 2
    with pytest.raises(ValueError, match="int4"):
        namespace(kv_dtype="bf16", spill_encoding="int4")
    with pytest.raises(stemcache.InvalidArgument, match="kv_dtype opaque"):
        stemcache.Client(cluster.node(0), namespace(spill_encoding="fp8_e4m3"), timeout_s=20)


def test_keys_are_the_same_from_any_kind_of_tokens(client, keys):
    tokens = list(range(100, 100 + 83))
    assert len(keys) == 5 * stemcache.KEY_BYTES
    for kind in (tokens, tuple(tokens), np.array(tokens, np.uint32), np.array(tokens, np.int64), array.array("I", tokens)):
        assert stemcache.Hasher(client).append(kind) == keys
    hasher = stemcache.Hasher(client)
    assert hasher.append(tokens[:20]) + hasher.append(tokens[20:]) == keys
    assert (hasher.blocks, hasher.tail_tokens) == (5, 3)
    assert stemcache.Hasher(client, b"salt").append(tokens) != keys
    hasher.restart()
    hasher.add_extra(stemcache.LORA, b"adapter")
    assert hasher.append(tokens) != keys


def test_what_one_client_publishes_others_load(cluster, client, keys):
    assert client.acquire(keys, timeout_s=20).matched_blocks == 0
    assert publish(client, keys) == 5
    assert client.reserve(keys, timeout_s=20).held == 5
    with stemcache.Client(cluster.node(1), namespace(), proof="header", timeout_s=20) as other:
        with other.acquire(keys, timeout_s=20) as stem:
            assert (stem.matched_blocks, stem.chain_blocks, stem.misses, stem.exact) == (5, 5, [], True)
            pages = np.zeros((5, BLOCK_BYTES), np.uint8)
            assert other.load(stem, 0, [pages[0], None, pages[2], bytearray(BLOCK_BYTES), memoryview(pages[4])], timeout_s=20) == 5
            assert all((pages[block] == payload(block)).all() for block in (0, 2, 4)) and not pages[1].any()
            assert stem.source(0) == "remote_dram"
        assert other.stats()["payloads_loaded"]["remote_dram"] == 4
        with pytest.raises(stemcache.InvalidArgument, match="released"):
            _ = stem.matched_blocks


def test_tensors_are_loaded_into_in_place(client, keys):
    torch = pytest.importorskip("torch")
    publish(client, keys)
    stem = client.acquire(keys, timeout_s=20)
    tensor = torch.zeros(2, 64, 64, dtype=torch.bfloat16)
    tensors = [torch.zeros(BLOCK_BYTES // 4, dtype=torch.float32), torch.zeros(BLOCK_BYTES // 2, dtype=torch.bfloat16), tensor]
    assert client.load(stem, 0, tensors, timeout_s=20) == 3
    assert (tensors[1].view(torch.uint8).numpy() == payload(1)).all()
    assert (tensor.view(torch.uint8).flatten().numpy() == payload(2)).all()
    view = client.read(stem, 3, timeout_s=20)
    assert (np.asarray(view.payload) == payload(3)).all() and view.intact
    with pytest.raises(TypeError, match="contiguous"):
        client.load(stem, 0, [torch.zeros(BLOCK_BYTES * 2, dtype=torch.uint8)[::2]], timeout_s=20)


def test_memory_that_is_none_is_refused(client, keys):
    publish(client, keys)
    stem = client.acquire(keys, timeout_s=20)
    for bad in (3, b"x" * BLOCK_BYTES, np.zeros((BLOCK_BYTES, 2), np.uint8)[:, 0]):
        with pytest.raises(TypeError, match="memory"):
            client.load(stem, 0, [bad], timeout_s=20)
    with pytest.raises(stemcache.InvalidArgument, match="1 bytes"):
        client.load(stem, 0, [bytearray(1)], timeout_s=20)


def test_views_outlive_their_client_and_cannot_be_written(cluster, keys, client):
    publish(client, keys)
    reader = stemcache.Client(cluster.node(0), namespace(), staging_bytes=0, timeout_s=20)
    view = reader.read(reader.acquire(keys, timeout_s=20), 0, timeout_s=20)
    content = memoryview(view.payload)
    assert content.readonly
    reader.close()
    assert bytes(content) == payload(0).tobytes() and not view.intact


def test_a_get_brings_what_there_is_and_says_why_not_the_rest(cluster, client, keys):
    publish(client, keys)
    pages = [np.zeros(BLOCK_BYTES, np.uint8) for _ in range(5)]
    got = client.get(keys, [pages[0], None, pages[2], pages[3], bytearray(BLOCK_BYTES)], request="r-1", timeout_s=20)
    assert got.blocks_loaded == 5 and got.misses == []
    assert all((pages[block] == payload(block)).all() for block in (0, 2, 3)) and not pages[1].any()
    longer = stemcache.Hasher(client).append(range(100, 100 + 16 * 7))
    assert longer[: len(keys)] == keys
    got = client.get(longer, [np.zeros(BLOCK_BYTES, np.uint8) for _ in range(7)], timeout_s=20)
    assert got.blocks_loaded == 5 and got.misses == [(5, 2, "cold")]
    with stemcache.Client(cluster.node(1), namespace(), timeout_s=20) as other:
        page = bytearray(BLOCK_BYTES)
        assert asyncio.run(other.get_async(keys, [None] * 4 + [page], timeout_s=20)).blocks_loaded == 5
        assert page == payload(4).tobytes()
    with pytest.raises(stemcache.InvalidArgument, match="the number of destinations is 4; it must be one per position, 5"):
        client.get(keys, pages[:4])
    with pytest.raises(stemcache.DeadlineExceeded) as late:
        client.get(longer, [None] * 7, timeout_s=0)
    assert late.value.blocks_loaded == 0


def test_asyncio_calls_leave_the_loop_free(client, keys):
    async def life() -> int:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0)

        beating = asyncio.ensure_future(beat())
        stem = await client.acquire_async(keys, timeout_s=20)
        assert stem.matched_blocks == 0
        reservation = await client.reserve_async(keys, timeout_s=20)
        for block, _, staging in reservation.wanted:
            np.asarray(staging)[:] = payload(block)
        assert (await client.commit_async(reservation, timeout_s=20)).committed == 5
        stems = await asyncio.gather(*(client.acquire_async(keys, timeout_s=20) for _ in range(50)))
        assert all(stem.matched_blocks == 5 for stem in stems)
        page = np.zeros(BLOCK_BYTES, np.uint8)
        assert await client.load_async(stems[0], 4, [page], timeout_s=20) == 1
        assert (page == payload(4)).all()
        with pytest.raises(stemcache.OutOfRange):
            await client.load_async(stems[0], 5, [page])
        beating.cancel()
        return beats

    assert asyncio.run(life()) > 0


def test_waiting_calls_release_the_interpreter(client, keys):
    publish(client, keys)
    results = []

    def work() -> None:
        for _ in range(50):
            with client.acquire(keys, timeout_s=20) as stem:
                results.append(client.load(stem, 0, [bytearray(BLOCK_BYTES) for _ in range(5)], timeout_s=20))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [5] * 200


def test_a_client_is_closed_beside_calls_that_run_without_a_hang(cluster):
    assert "30 rounds" in apart(cluster, """
kinds = set()
for round in range(30):
    client, keys = connect()

    def work():
        try:
            while True:
                client.start_acquire(keys, timeout_s=5, notify=lambda: None)
                client.acquire(keys, timeout_s=5)
        except stemcache.StemcacheError as error:
            kinds.add(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.01 + 0.001 * round)
    client.close()
    for thread in threads:
        thread.join()
assert kinds <= {"FailedPrecondition", "ResourceExhausted", "Unavailable"} and "FailedPrecondition" in kinds, kinds
print("30 rounds")
""")


def test_a_mover_is_closed_beside_a_run(cluster):
    assert "30 rounds" in apart(cluster, """
memory = np.ones((64, BLOCK_BYTES), np.uint8)
for round in range(30):
    client, keys = connect()
    mover = stemcache.PageMover(client, [(0, [(memory.ctypes.data, BLOCK_BYTES, BLOCK_BYTES, 0)])], page_count=64, pages_per_block=[1])
    job = dict(keys=keys, first_block=0, pages=list(range(5)), timeout_s=5)
    mover.run(save=True, **job)
    ended = []

    def work():
        try:
            while True:
                client.start_acquire(keys, timeout_s=5, notify=lambda: None)
                mover.run(save=False, **job)
        except stemcache.StemcacheError as error:
            ended.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.01 + 0.001 * round)
    for each in (mover, client) if round % 2 else (client, mover):
        each.close()
    for thread in threads:
        thread.join()
    assert len(ended) == 4 and all("closed" in text or "outstanding" in text for text in ended), ended
print("30 rounds")
""")


def test_memory_of_a_load_that_was_dropped_is_let_go_on_any_thread(cluster, client):
    publish(client, stemcache.Hasher(client).append(range(5 * 16)))
    assert "let go of 400" in apart(cluster, """
freed = []

class Page(bytearray):
    def __del__(self):
        freed.append(threading.current_thread().name)

class Tensor:
    \"\"\"DLPack and no buffer.\"\"\"

    def __init__(self):
        self.page = Page(BLOCK_BYTES)

    def __dlpack__(self, **_):
        return np.frombuffer(self.page, np.uint8).__dlpack__()

    def __dlpack_device__(self):
        return 1, 0

client, keys = connect()
stem = client.acquire(keys, timeout_s=20)
assert stem.matched_blocks == 5
for round in range(40):
    for kind in (lambda: Page(BLOCK_BYTES), Tensor):
        client.start_load(stem, 0, [kind() for _ in range(5)], timeout_s=20)
end = time.monotonic() + 30
while len(freed) < 400 and time.monotonic() < end:
    sum(range(1000))
    time.sleep(0)
assert any("Dummy" in name for name in freed), "none was let go on a thread of the client"
print("let go of", len(freed))
""")


def test_what_is_told_of_conversations_decides_who_leaves_first(new_cluster):
    with stemcache.Client(new_cluster(nodes=1, dram="1MiB").node(0), namespace(), timeout_s=20) as client:
        def chain(first: int, blocks: int) -> bytes:
            return stemcache.Hasher(client).append(range(first, first + 16 * blocks))

        kept, told, ended, small = chain(1, 16), chain(100_000, 8), chain(200_000, 8), chain(300_000, 2)
        chat = [stemcache.conversation_id(f"chat-{i}") for i in range(6)]
        publish(client, kept, conversation=chat[1], outlook="will_resume")
        publish(client, told, conversation=chat[2], outlook="ended")
        publish(client, ended, conversation=chat[3])
        client.end_conversation(chat[3])
        publish(client, small, conversation=chat[4])
        for _ in range(50):
            client.acquire(small, timeout_s=20, conversation=chat[4]).release()
        publish(client, chain(400_000, 24), conversation=chat[5])
        assert client.acquire(kept, timeout_s=20).matched_blocks == 16, "the oldest"
        assert sum(client.acquire(keys, timeout_s=20).matched_blocks for keys in (told, ended)) < 16
        with pytest.raises(ValueError, match="outlook"):
            client.acquire(kept, outlook="soon")
        assert client.start_acquire(kept, conversation=chat[1], outlook="ended") is not None
    assert len(set(chat)) == 6 and all(0 < number < 1 << 64 for number in chat)


def test_errors_are_told_by_kind(cluster, client, keys):
    with pytest.raises(stemcache.Unavailable) as gone:
        stemcache.Client("unix:///nowhere/node.sock", namespace(), timeout_s=1)
    assert isinstance(gone.value, ConnectionError) and gone.value.code == 14
    with pytest.raises(stemcache.InvalidArgument, match="model"):
        stemcache.Client(cluster.node(0), namespace(model=""), timeout_s=20)
    with pytest.raises(ValueError, match="16 bytes"):
        client.acquire(b"short")
    with pytest.raises(stemcache.InvalidArgument, match="must be 1 to"):
        client.acquire(b"")
    with pytest.raises(ValueError, match="token 1 is -3"):
        stemcache.Hasher(client).append([1, -3])
    reservation = client.reserve(keys, timeout_s=20)
    reservation.abandon()
    with pytest.raises(stemcache.InvalidArgument, match="committed or abandoned"):
        client.commit(reservation)
    client.close()
    with pytest.raises(stemcache.FailedPrecondition, match="closed"):
        client.acquire(keys)
    kinds = {kind.__name__ for kind in stemcache.StemcacheError.__subclasses__()}
    assert kinds <= set(stemcache.__all__) and all(hasattr(stemcache, name) for name in stemcache.__all__)


def test_a_namespace_that_differs_is_warned_about_with_its_field(cluster, client):
    with stemcache.Client(cluster.node(0), namespace(kv_dtype="fp32"), timeout_s=20) as other:
        assert any("kv_dtype" in warning for warning in other.warnings)
        assert other.fingerprint != client.fingerprint
        assert client.namespace.differing_fields(other.namespace) == ["kv_dtype (opaque, fp32)"]


def test_a_prompt_that_is_known_under_another_namespace_is_incompatible(cluster, client):
    tokens = range(700, 700 + 3 * 16)
    with stemcache.Client(cluster.node(0), namespace(kv_dtype="fp32"), timeout_s=20) as other:
        hasher = stemcache.Hasher(other)
        keys = hasher.append(tokens)
        assert len(hasher.probe) == 16
        reservation = other.reserve(keys, probe=hasher.probe, timeout_s=20)
        assert other.commit(reservation, timeout_s=20).committed == 3
    mine = stemcache.Hasher(client)
    assert mine.probe == b""
    keys = mine.append(tokens)
    assert mine.probe == hasher.probe
    for _ in range(1000):  # until the directory has heard of it
        with client.acquire(keys, probe=mine.probe, timeout_s=20) as stem:
            if stem.misses == [(0, 3, "incompatible")]:
                assert stem.difference == ("kv_dtype", "opaque", "fp32")
                return
            assert stem.difference is None
        time.sleep(0.01)
    pytest.fail("the miss was never called incompatible")


def test_calls_fail_at_once_while_the_node_is_gone_and_work_with_its_successor(cluster, client, keys):
    cluster.kill(0)
    for _ in range(3):
        with pytest.raises(stemcache.StemcacheError):
            client.acquire(keys, timeout_s=5)
            client.acquire(keys, timeout_s=5)
    cluster.up(resume=True)
    before = client.stats()["reattaches"]
    while True:
        try:
            client.acquire(keys, timeout_s=5)
            break
        except stemcache.StemcacheError:
            continue
    assert client.connected and client.stats()["reattaches"] > before
