"""Attaches to the node, now or as soon as there is one."""

from __future__ import annotations

import logging
import threading
from typing import Any

import stemcache

logger = logging.getLogger("vllm.stemcache")

RETRY_SECONDS = 1.0


class Attachment:
    """A client once there is one. The first try is made here; when no node answers, a thread goes on trying.

    A node that refuses the namespace (its field is in the message) raises when `strict`, else it is logged and nothing is cached.
    """

    def __init__(self, who: str, node: str, namespace: stemcache.Namespace, *, strict: bool = False, **options: Any) -> None:
        self._who, self._node, self._namespace, self._options = who, node, namespace, options
        self._lock = threading.Lock()
        self._client: stemcache.Client | None = None
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            self._set(self._connect())
        except (stemcache.FailedPrecondition, stemcache.InvalidArgument) as error:
            if strict:
                raise
            self._refused(error)
        except stemcache.StemcacheError as error:
            logger.warning("Stemcache: %s has no node at %s yet (%s); requests are computed until there is one", who, node, error)
            self._thread = threading.Thread(target=self._keep_trying, name="stemcache-attach", daemon=True)
            self._thread.start()

    def _connect(self) -> stemcache.Client:
        return stemcache.Client(self._node, self._namespace, client_name=self._who, timeout_s=2.0, **self._options)

    def _set(self, client: stemcache.Client) -> None:
        for warning in client.warnings:
            logger.warning("Stemcache: node %s: %s", client.node, warning)
        logger.info("Stemcache: %s is attached to node %s at %s, namespace %s", self._who, client.node, self._node,
                    client.fingerprint.hex())
        with self._lock:
            self._client = client
        if self._closed.is_set():
            client.close()

    def _keep_trying(self) -> None:
        while not self._closed.wait(RETRY_SECONDS):
            try:
                return self._set(self._connect())
            except (stemcache.FailedPrecondition, stemcache.InvalidArgument) as error:
                return self._refused(error)
            except stemcache.StemcacheError:
                continue

    def _refused(self, error: stemcache.StemcacheError) -> None:
        logger.error("Stemcache: %s is refused by the node at %s, and caches nothing: %s", self._who, self._node, error)

    @property
    def client(self) -> stemcache.Client | None:
        """None = no node yet. A client whose node went finds its successor by itself."""
        with self._lock:
            return self._client

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        with self._lock:
            if self._client is not None:
                self._client.close()
