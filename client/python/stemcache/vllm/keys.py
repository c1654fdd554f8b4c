"""Keys of a request: its tokens, and everything besides them that the KV of a block depends on."""

from __future__ import annotations

import concurrent.futures
import hashlib
import os
from typing import Any

import stemcache


class Adapters:
    """Identities of LoRA adapters: a name alone may mean other weights elsewhere, or later. Read on a thread of its own."""

    def __init__(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stemcache-lora")
        self._known: dict[tuple[str, str], concurrent.futures.Future[bytes]] = {}

    def identity(self, lora: Any) -> bytes | None:
        """None = not known yet: ask again."""
        path = getattr(lora, "lora_path", "") or ""
        name = (lora.lora_name, path)
        if name not in self._known:
            self._known[name] = self._threads.submit(self._read, *name)
        future = self._known[name]
        return future.result() if future.done() else None

    @staticmethod
    def _read(name: str, path: str) -> bytes:
        digest = hashlib.sha256(f"{len(name)}:{name}".encode())
        if os.path.isdir(path):
            for file in sorted(os.listdir(path)):
                if file.endswith((".safetensors", ".bin", ".pt")) or file == "adapter_config.json":
                    digest.update(file.encode())
                    with open(os.path.join(path, file), "rb") as content:
                        while chunk := content.read(1 << 20):
                            digest.update(chunk)
        else:
            digest.update(path.encode())  # the hub's name
        return digest.digest()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Chain:
    """Keys of one request's blocks, as far as they were asked for. `lora` is the adapter's identity, or None."""

    def __init__(self, client: stemcache.Client, block_tokens: int, request: Any, lora: bytes | None) -> None:
        salt = (request.cache_salt or "").encode()
        if len(salt) > 1024:
            salt = hashlib.sha256(salt).digest()
        self._hasher = stemcache.Hasher(client, salt)
        self._request = request
        self._block_tokens = block_tokens
        self._tokens = 0  # given to the hasher
        self.keys = b""
        self._extras: list[tuple[int, int, bytes, int]] = []  # (block, tag, bytes, offset in the block), ascending
        if lora is not None:
            self._extras.append((0, stemcache.LORA, lora, 0))
        for feature in getattr(request, "mm_features", None) or ():
            block, offset = divmod(feature.mm_position.offset, block_tokens)
            self._extras.append((block, stemcache.MULTIMODAL, _bounded(str(feature.identifier).encode()), offset))
        self._extras.sort(key=lambda extra: (extra[0], extra[1], extra[3]))

    def upto(self, blocks: int) -> bytes:
        """Keys of the first `blocks` blocks, which the request has in full."""
        size = blocks * stemcache.KEY_BYTES
        tokens = self._request.all_token_ids
        while len(self.keys) < size:
            block = self._tokens // self._block_tokens
            end = blocks
            while self._extras and self._extras[0][0] == block:
                _, tag, value, offset = self._extras.pop(0)
                self._hasher.add_extra(tag, value, offset)
            if self._extras:
                end = min(end, self._extras[0][0])
            if getattr(self._request, "prompt_embeds", None) is not None:
                self._add_embeddings(block)
                end = block + 1
            stop = max(end, block + 1) * self._block_tokens
            self.keys += self._hasher.append(list(tokens[self._tokens:stop]))
            self._tokens = stop
        return self.keys[:size]

    def _add_embeddings(self, block: int) -> None:
        first = block * self._block_tokens
        rows = self._request.prompt_embeds[first:first + self._block_tokens]
        if len(rows) > 0:
            import torch

            content = rows.detach().cpu().contiguous().view(torch.uint8).numpy()
            self._hasher.add_extra(stemcache.PROMPT_EMBEDDING, hashlib.sha256(content).digest())


def _bounded(identifier: bytes) -> bytes:
    return identifier if len(identifier) <= 1024 else hashlib.sha256(identifier).digest()
