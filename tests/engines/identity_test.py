"""What an engine's blocks are called: which engines share them, and which are refused at start, saying why."""

from __future__ import annotations

import types

import pytest

from stemcache.vllm import identity, version
from tests.support.engine_specs import Spec, geometry_of


def test_groups_of_one_window_are_one_part_of_each_rank():
    full, window = Spec("FullAttentionSpec"), Spec("SlidingWindowSpec", sliding_window=513)
    wide = Spec("SlidingWindowSpec", sliding_window=513, block_size=32, page_size_bytes=8192)  # padded to twice its size
    one = geometry_of(full)
    assert one.block_tokens == 128 and one.parts() == [
        {"id": 0, "head_first": 0, "layer_first": 0, "window_tokens": 0, "block_bytes": 65536}]
    several = geometry_of(window, full, wide, ranks=2)
    assert several.block_tokens == 64 and several.pages_per_block == [4, 4, 2]
    assert several.parts() == [
        {"id": 0, "head_first": 0, "layer_first": 0, "window_tokens": 0, "block_bytes": 32768},
        {"id": 1, "head_first": 1, "layer_first": 0, "window_tokens": 0, "block_bytes": 32768},
        {"id": 2, "head_first": 0, "layer_first": 1, "window_tokens": 512, "block_bytes": 49152},
        {"id": 3, "head_first": 1, "layer_first": 1, "window_tokens": 512, "block_bytes": 49152}]
    chunked = geometry_of(full, Spec("ChunkedLocalAttentionSpec", attention_chunk_size=8192))
    assert chunked.windows == [0, 8192 - chunked.block_tokens], "a stem's last chunk is never a whole one"


def test_engines_of_any_degree_have_the_same_parts_of_heads():
    def geometry(ranks: int, **extra):  # of a model with 4 KV heads, of which vLLM would tell that it repeats them
        spec = Spec("FullAttentionSpec", num_kv_heads=max(1, 4 // ranks), unpadded_page_size_bytes=16384 // min(4, ranks))
        return geometry_of(spec, spec, ranks=ranks, replicas=max(1, ranks // 4), **extra)

    one, two, eight = (geometry(ranks, head_parts=4) for ranks in (1, 2, 8))
    assert one.parts() == two.parts() == eight.parts() and one.block_tokens == eight.block_tokens
    assert [list(one.head_parts_of(0)), list(two.head_parts_of(1)), list(eight.head_parts_of(5))] == [[0, 1, 2, 3], [2, 3], [2]]
    assert (one.slices, two.slices, eight.slices) == (4, 2, 1)
    assert [eight.saves(rank) for rank in range(8)] == [True, False] * 4, "heads that two ranks hold are stored once"
    assert geometry(8).head_parts == 4 and geometry(2).head_parts == 2
    with pytest.raises(ValueError, match="head_parts is 3; with 2 tensor-parallel ranks, of which 1 hold the same"):
        geometry(2, head_parts=3)
    with pytest.raises(ValueError, match="head_parts is 2; with 4 tensor-parallel ranks"):
        geometry(4, head_parts=2)
    with pytest.raises(ValueError, match="head_parts is 8, which cuts the 2 KV heads of each of 2 ranks into 4"):
        geometry(2, head_parts=8)


def test_groups_that_cannot_be_moved_are_refused_with_what_would_do():
    full, window = Spec("FullAttentionSpec"), Spec("SlidingWindowSpec", sliding_window=512)
    with pytest.raises(ValueError, match="of the kind MambaSpec.*--disable-hybrid-kv-cache-manager"):
        geometry_of(full, Spec("MambaSpec"))
    for specs in ((full, window), (window,), (full, full)):
        with pytest.raises(ValueError, match="only when it is 'async'"):
            geometry_of(*specs, load="sync")
    assert geometry_of(full, load="sync").groups[0].window_tokens == 0
    with pytest.raises(ValueError, match="of the kind MambaSpec"):
        geometry_of(Spec("MambaSpec"))
    with pytest.raises(ValueError, match="not causal"):
        geometry_of(Spec("FullAttentionSpec", non_causal=True))
    assert geometry_of(Spec("MLAAttentionSpec")).parts()
    with pytest.raises(ValueError, match="must be a multiple of vLLM's block size, 48"):
        geometry_of(full, Spec("FullAttentionSpec", block_size=24), block_tokens=32)
    with pytest.raises(ValueError, match="has no KV cache"):
        geometry_of()


def test_a_gpus_blocks_are_named_by_the_kernels_that_pack_them():
    def name(backend=None, per_kind=None, version="0.32.0"):
        backends = {kind: types.SimpleNamespace(name=each) for kind, each in {"": backend, **(per_kind or {})}.items() if each}
        attention = types.SimpleNamespace(backend=backends.pop("", None), backend_per_kind=backends)
        return identity._gpu_kernels(attention, version, types.SimpleNamespace(major=9, minor=0))

    assert name("FLASH_ATTN") == name("FLASH_ATTN", version="0.33.0") == "cuda/flash_attn"
    assert name() == "cuda/auto/0.32.0/sm90", "what vLLM then takes may change with its version"
    names = {name(), name("FLASHINFER"), name(version="0.33.0"), name("FLASHINFER", {"sliding_window": "TRITON_ATTN"}),
             name(None, {"sliding_window": "TRITON_ATTN"}), name(version="0.33.0rc1.dev123+g0123456.d20261126")}
    assert len(names) == 6 and all(len(each) <= 32 for each in names)


def test_a_caches_type_is_what_it_is_made_of_whatever_was_told():
    def spec(dtype: str, mode: str = "") -> Spec:
        return Spec("FullAttentionSpec", dtype=f"torch.{dtype}", kv_quant_mode=types.SimpleNamespace(name=mode) if mode else 0)

    assert identity._kv_dtype("auto", [spec("bfloat16")]) == "bf16" and identity._kv_dtype("float16", [spec("float16")]) == "fp16"
    # A checkpoint says fp8, which vLLM notes where it loads the model.
    assert identity._kv_dtype("auto", [spec("uint8", "FP8_PER_TENSOR")]) == identity._kv_dtype("fp8", [spec("uint8", "FP8_PER_TENSOR")])
    several = {identity._kv_dtype("fp8", [spec("uint8", "FP8_PER_TENSOR")]), identity._kv_dtype("fp8_e5m2", [spec("uint8", "FP8_PER_TENSOR")]),
               identity._kv_dtype("fp8_e5m2", [spec("uint8")]), identity._kv_dtype("auto", [spec("uint8")]),
               identity._kv_dtype("x", [spec("uint8", "FP8_PER_TOKEN_HEAD"), spec("uint8", "INT8_PER_TOKEN_HEAD")])}
    assert len(several) == 5 and all(len(each) <= 32 for each in several)


def weights_of(model: str, *, load_format: str = "auto", commit: str | None = None, **fields) -> tuple[str, str]:
    config = types.SimpleNamespace(model=model, hf_config=types.SimpleNamespace(_commit_hash=commit),
                                   **{"revision": None, "hf_config_path": None, "model_weights": "", **fields})
    return identity.weights_of(types.SimpleNamespace(model_config=config, load_config=types.SimpleNamespace(load_format=load_format)))


def test_weights_are_named_by_a_commit_only_when_they_come_from_it(tmp_path):
    commit, other = "0123456789abcdef0123456789abcdef01234567", "f" * 40
    assert weights_of("org/model", commit=commit) == (commit, "")
    assert weights_of("org/model", commit=commit, hf_config_path="org/model") == (commit, "")
    assert weights_of("org/model", commit=commit, hf_config_path="org/config", revision=other) == (other, "")
    with pytest.raises(ValueError, match="set weights_digest"):
        weights_of("org/model", commit=commit, hf_config_path="org/config", revision="main")
    for load_format in ("dummy", "tensorizer", "somebody's"):
        with pytest.raises(ValueError, match=f"load_format '{load_format}'.*set weights_digest"):
            weights_of("org/model", commit=commit, load_format=load_format)
    with pytest.raises(ValueError, match="streamed from 's3://bucket/m'"):
        weights_of(str(tmp_path), model_weights="s3://bucket/m")
    with pytest.raises(ValueError, match="no weight files"):
        weights_of(str(tmp_path), commit=commit)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = weights_of(str(tmp_path), commit=commit, revision=commit)
    weights.write_bytes(b"two")
    assert first[0] == "" != first[1] != weights_of(str(tmp_path), commit=commit, revision=commit)[1], "the files say it, not the commit"


def test_vllm_outside_the_range_is_refused_with_what_to_install():
    version.check("0.32.0")
    version.check("0.33.1+cpu")
    for other in ("0.31.9", "0.34.0", "1.0"):
        with pytest.raises(ImportError, match="0.32 to 0.33, and this is " + other.replace(".", r"\.")):
            version.check(other)
