"""Keys of a request: its tokens, and everything besides them that the KV of a block depends on."""

from __future__ import annotations

import concurrent.futures
import hashlib
import logging
import os
from typing import Any

import stemcache

logger = logging.getLogger("vllm.stemcache")


_WEIGHTS = (".safetensors", ".bin", ".pt")
_ADAPTERS_MAX = 1024

_Stamps = tuple[tuple[str, int, int, int, int], ...]


class Adapters:
    """Identities of LoRA adapters by the bytes of their files: a name may mean other weights elsewhere, or later.

    An adapter is not cached while its files cannot be read, nor once they differ from what they were when its number was first
    seen: the engine may hold either. Files are read on a thread of its own. Threads: one calls.
    """

    def __init__(self) -> None:
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="stemcache-lora")
        self._known: dict[tuple[str, str, int], tuple[_Stamps, bytes]] = {}
        self._told: set[tuple[str, str, int]] = set()

    def look(self, lora: Any) -> concurrent.futures.Future[bytes | None]:
        """The identity as the files are now; None = not to be cached, which is logged once. Never raises."""
        return self._threads.submit(self._look, lora)

    def _look(self, lora: Any) -> bytes | None:
        name = (lora.lora_name, getattr(lora, "lora_path", "") or "", getattr(lora, "lora_int_id", 0))
        try:
            return self._identity(name, lora)
        except Exception as error:  # of any kind: the scheduler must not meet it
            if name not in self._told and len(self._told) < _ADAPTERS_MAX:
                self._told.add(name)
                logger.warning("Stemcache: requests of the LoRA adapter '%s' (%s) are not cached: %s", name[0], name[1], error)
            return None

    def _identity(self, name: tuple[str, str, int], lora: Any) -> bytes:
        if getattr(lora, "load_inplace", False):
            raise ValueError("it is loaded in place (load_inplace), so that its weights may change under a request")
        files = _files(_folder(name[1]))
        stamps = _stamps(files)
        if name in self._known:
            known, identity = self._known[name]
            if known != stamps:
                raise ValueError("its files changed since it was loaded; load it again under another path, or restart the engine")
            return identity
        digest = hashlib.sha256(f"{len(name[0])}:{name[0]}:{getattr(lora, 'is_3d_lora_weight', False)}".encode())
        for file in files:
            digest.update(os.path.basename(file).encode())
            digest.update(file_digest(file).encode())
        if _stamps(files) != stamps:
            raise ValueError("its files changed while they were read")
        if len(self._known) >= _ADAPTERS_MAX:
            self._known.pop(next(iter(self._known)))
        self._known[name] = (stamps, digest.digest())
        return digest.digest()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def file_digest(path: str) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as content:
        while chunk := content.read(4 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _folder(path: str) -> str:
    """Where vLLM reads the adapter: a folder, or the hub's copy on this machine."""
    path = os.path.expanduser(path)
    if os.path.isabs(path) or os.path.exists(path):
        return path
    import huggingface_hub

    return huggingface_hub.snapshot_download(path, local_files_only=True)


def _files(folder: str) -> list[str]:
    names = sorted(name for name in os.listdir(folder) if name.endswith(_WEIGHTS) or name == "adapter_config.json")
    if not any(name.endswith(_WEIGHTS) for name in names):
        raise ValueError(f"there are no weights ({', '.join(_WEIGHTS)}) in {folder}")
    return [os.path.join(folder, name) for name in names]


def _stamps(files: list[str]) -> _Stamps:
    every = ((file, os.stat(file)) for file in files)
    return tuple((file, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for file, stat in every)


class Chain:
    """Keys of one request's blocks, as far as they were asked for. `lora` is the adapter's identity, or None."""

    def __init__(self, client: stemcache.Client, block_tokens: int, request: Any, lora: bytes | None) -> None:
        self._hasher = stemcache.Hasher(client, salt_of(request.cache_salt))
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

    @property
    def probe(self) -> bytes:
        """Of the tokens that `upto` has taken in; empty while they are few."""
        return self._hasher.probe

    def _add_embeddings(self, block: int) -> None:
        first = block * self._block_tokens
        rows = self._request.prompt_embeds[first:first + self._block_tokens]
        if len(rows) > 0:
            import torch

            content = rows.detach().cpu().contiguous().view(torch.uint8).numpy()
            self._hasher.add_extra(stemcache.PROMPT_EMBEDDING, hashlib.sha256(content).digest())


def salt_of(cache_salt: str | None) -> bytes:
    """The salt of a chain."""
    return _bounded((cache_salt or "").encode())


def _bounded(identifier: bytes) -> bytes:
    return identifier if len(identifier) <= 1024 else hashlib.sha256(identifier).digest()
