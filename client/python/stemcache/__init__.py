"""Stemcache: the tier that keeps the KV cache of shared prompt prefixes.

`Client` asks this host's node for the longest stem of a prompt, copies it out of shared memory with proof, and publishes what
was computed. Blocking calls release the GIL; `acquire`, `load`, `get`, `reserve` and `commit` have a form for asyncio with the
same arguments, `acquire_async` and so on:

    client = stemcache.Client("unix:///run/stemcache/node.sock", stemcache.Namespace(...))
    keys = stemcache.Hasher(client).append(prompt)
    with client.acquire(keys) as stem:
        client.load(stem, 0, pages[:stem.matched_blocks])
    client.get(keys, pages)      # the same in one; without a call where this host's node has all of it in memory

Keys are `bytes`, 16 for each block, in the order of the chain. Memory is anything with the buffer protocol or DLPack on the host.
Engine connectors: `stemcache.vllm`. A router: `stemcache.router`.
"""

from stemcache._core import Committed, Directories, Got, Hasher, MoveResult, Namespace, NodeScore, PageMover, Part, Reservation, Stem, View, check_gpu
from stemcache.client import Client, conversation_id
from stemcache.errors import (
    Aborted,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    ResourceExhausted,
    StemcacheError,
    Unavailable,
    Unimplemented,
)

KEY_BYTES = 16
OUTLOOKS = ("unknown", "will_resume", "ended")  # what comes after a request in its conversation
LORA, MULTIMODAL, PROMPT_EMBEDDING, OTHER = 1, 2, 3, 4  # tags of Hasher.add_extra

__version__ = "0.1.0"
__all__ = [
    "Aborted", "Client", "Committed", "DataLoss", "DeadlineExceeded", "Directories", "FailedPrecondition", "Got", "Hasher", "Internal", "InvalidArgument",
    "KEY_BYTES", "LORA", "MULTIMODAL", "MoveResult", "Namespace", "NodeScore", "NotFound", "OTHER", "OUTLOOKS", "OutOfRange", "PROMPT_EMBEDDING",
    "PageMover", "Part", "Reservation", "ResourceExhausted", "Stem", "StemcacheError", "Unavailable", "Unimplemented", "View", "__version__",
    "check_gpu", "conversation_id",
]
