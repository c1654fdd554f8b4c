"""The proxy. Whatever fails on the way to a choice costs the choice, never the request."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp
import prometheus_client
from aiohttp import web

import stemcache
from stemcache.router import prompts
from stemcache.router.choice import Choice, Held, Replica, choose

logger = logging.getLogger("stemcache.router")

DOWN_SECONDS = 5.0  # how long a replica that refused a connection is left alone
BODY_BYTES_MAX = 64 << 20
_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """`client`: attached to the engines' namespace, or None while no node answers. `directories`: None = route by session and load only."""

    replicas: Sequence[Replica]
    client: Callable[[], stemcache.Client | None]
    directories: stemcache.Directories | None
    decide_seconds: float = 0.05


class Router:
    """Handlers of an aiohttp application. One event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._base_models: set[str] = set()
        self.registry = prometheus_client.CollectorRegistry()
        self._requests = prometheus_client.Counter("stemcache_router_requests", "Requests sent, by replica and by what decided",
                                                   ["node", "why"], registry=self.registry)
        self._tokens = prometheus_client.Counter("stemcache_router_prompt_tokens", "Tokens of prompts, and of those expected to be held",
                                                 ["what"], registry=self.registry)
        self._deciding = prometheus_client.Histogram("stemcache_router_decide_seconds", "Time to decide", registry=self.registry,
                                                     buckets=(.001, .002, .005, .01, .02, .05, .1))
        self._failed = prometheus_client.Counter("stemcache_router_replica_failures", "Connections that a replica refused or cut", ["node"],
                                                 registry=self.registry)

    def application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.cleanup_ctx.append(self._sessions)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/v1/completions", self._generate)
        app.router.add_post("/v1/chat/completions", self._generate)
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        return app

    async def _sessions(self, _: web.Application):
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0), auto_decompress=False) as session:
            self._session = session
            yield

    # ---- Handlers

    async def _health(self, _: web.Request) -> web.Response:
        up = len(self._up())
        return web.json_response({"replicas": len(self._settings.replicas), "up": up}, status=200 if up else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=prometheus_client.generate_latest(self.registry), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        return await self._send(request, content, lambda up: Choice(min(up, key=lambda each: each.in_flight), "load", 0.0))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        content = await request.read()
        try:
            body = json.loads(content)
        except ValueError:
            return _error(400, "the body is no JSON")
        if not isinstance(body, dict):
            return _error(400, "the body is no JSON object")
        began = time.monotonic()
        tokens, held = 0, {}
        try:
            tokens, held = await asyncio.wait_for(self._held(body), self._settings.decide_seconds)
        except (asyncio.TimeoutError, aiohttp.ClientError, stemcache.StemcacheError, ValueError) as error:
            logger.debug("no stem is known: %s: %s", type(error).__name__, error)
        self._deciding.observe(time.monotonic() - began)
        session = prompts.session_of(request.headers, body)
        self._tokens.labels("prompt").inc(tokens)

        def decide(up: Sequence[Replica]) -> Choice:
            return choose(up, tokens, [held.get(each.node, Held()) for each in up] if held else None, session)

        return await self._send(request, content, decide)

    # ---- What is held

    async def _held(self, body: dict[str, Any]) -> tuple[int, dict[str, Held]]:
        """Tokens of the prompt, and how many of them each node holds; none for what has no keys here."""
        client = self._settings.client()
        if client is None or self._settings.directories is None or not await self._is_base_model(body.get("model")):
            return 0, {}
        tokens = await prompts.tokens_of(body, self._tokenize)
        if tokens is None:
            return 0, {}
        block = client.namespace.block_tokens
        keys = prompts.keys_of(client, body, tokens)
        if not keys:
            return len(tokens), {}
        nodes = [replica.node for replica in self._settings.replicas]
        scores = await asyncio.to_thread(self._settings.directories.score, client, keys, nodes, timeout_s=self._settings.decide_seconds)
        return len(tokens), {score.node: Held(score.dram_blocks * block, score.ssd_blocks * block, score.engine_blocks * block,
                                              score.health_percent / 100)
                             for score in scores}

    async def _tokenize(self, fields: dict[str, Any]) -> list[int]:
        return (await self._ask("POST", "/tokenize", fields))["tokens"]

    async def _is_base_model(self, name: Any) -> bool:
        """Adapters have keys of their own, which only their files tell."""
        if not self._base_models:
            self._base_models = {model["id"] for model in (await self._ask("GET", "/v1/models"))["data"] if not model.get("parent")}
        return name is None or name in self._base_models

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """What any replica answers, the least busy first."""
        while up := self._up():
            replica = min(up, key=lambda each: each.in_flight)
            try:
                async with self._session.request(method, replica.url + path, json=body) as answer:
                    answer.raise_for_status()
                    return await answer.json()
            except aiohttp.ClientConnectionError as error:
                self._refused(replica, error)
        raise stemcache.Unavailable("no replica answers")

    # ---- Sending

    def _up(self) -> list[Replica]:
        now = time.monotonic()
        return [replica for replica in self._settings.replicas if replica.down_until <= now]

    def _refused(self, replica: Replica, error: Exception) -> None:
        replica.down_until = time.monotonic() + DOWN_SECONDS
        self._failed.labels(replica.node).inc()
        logger.warning("replica %s at %s does not answer: %s", replica.node, replica.url, error)

    async def _send(self, request: web.Request, content: bytes, decide: Callable[[Sequence[Replica]], Choice]) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        while up := self._up():
            choice = decide(up)
            replica = choice.replica
            self._requests.labels(replica.node, choice.why).inc()
            replica.in_flight += 1
            replica.to_compute += choice.to_compute
            waits = choice.to_compute  # until the replica begins to answer
            try:
                try:
                    answer = await self._session.request(request.method, replica.url + request.path_qs, data=content, headers=headers,
                                                         allow_redirects=False)
                except (aiohttp.ClientConnectionError, asyncio.TimeoutError) as error:
                    self._refused(replica, error)  # nothing was answered: another may
                    continue
                replica.to_compute -= waits
                waits = 0.0
                async with answer:  # closes the connection when the caller went, so that the engine stops
                    return await self._stream(request, answer)
            finally:
                replica.in_flight -= 1
                replica.to_compute -= waits
        return _error(503, "no replica answers")

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        while True:
            try:
                piece = await answer.content.readany()
            except aiohttp.ClientError as error:
                logger.warning("an answer of %s was cut: %s", answer.url, error)
                request.transport.abort()  # what was sent cannot be taken back: the caller must see that it is not whole
                return response
            if not piece:
                break
            await response.write(piece)
        await response.write_eof()
        return response


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "router_error", "code": status}}, status=status)
