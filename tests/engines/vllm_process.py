"""A vLLM engine in a process of its own, told what to do line by line: a fresh one can only know a prefix from the tier.

Run as a program it is that process: one JSON command a line on its standard input, one answer a line, marked, on its output, among
vLLM's own lines.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

MARK = "\x01answer "
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "INFO",
}


def transfer_config(node: str, role: str = "kv_both", **extra: Any) -> dict[str, Any]:
    """What --kv-transfer-config takes; with time-outs that only a hang meets, as a test's machine may be busy."""
    extra = {"lookup_timeout_ms": 20000, "load_timeout_ms": 60000, "save_timeout_ms": 60000, **extra}
    return {"kv_connector": "StemcacheConnector", "kv_connector_module_path": "stemcache.vllm", "kv_role": role,
            "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"node": node, **extra}}


class VllmProcess:
    """`environment` adds to ENVIRONMENT. Raises RuntimeError with the end of the log when the process or a command fails."""

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        self._log = tempfile.NamedTemporaryFile("w+", prefix="vllm.", suffix=".log")
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                         stderr=self._log, env={**os.environ, **ENVIRONMENT, **(environment or {})})

    def start(self, model: str, transfer: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """An engine; one at a time. Options as of vllm.LLM."""
        return self._do({"do": "start", "model": model, "transfer": transfer, "options": options})

    def generate(self, prompts: list[list[int]], max_tokens: int = 64, **options: Any) -> dict[str, Any]:
        """{"tokens": [[id]], "cached": [tokens], "seconds": of all, "metrics": sums of counters since the engine's start, ...}.

        Options: salts, one a prompt; adapters, (name, number, folder) or None a prompt; logprobs, how many a token: then "logprobs" has
        {token as text: logprob} of each position.
        """
        return self._do({"do": "generate", "prompts": prompts, "max_tokens": max_tokens, **options})

    def forget(self) -> None:
        """The engine's own prefix cache is empty after this; the tier's is not."""
        self._do({"do": "forget"})

    def stop(self) -> None:
        self._do({"do": "stop"})

    def close(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def log(self) -> str:
        with open(self._log.name) as text:
            return text.read()

    def _do(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        lines = []
        for line in self._process.stdout:
            if MARK in line:
                answer = json.loads(line.split(MARK, 1)[1])
                if "error" in answer:
                    raise RuntimeError(f"{answer['error']}\n{self.log()[-6000:]}")
                return answer
            lines.append(line)
        raise RuntimeError(f"the process ended: {''.join(lines[-30:])}\n{self.log()[-6000:]}")

    def __enter__(self) -> VllmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---- In the process

class _Engine:
    def __init__(self) -> None:
        self.llm: Any = None

    def start(self, model: str, transfer: dict[str, Any] | None, options: dict[str, Any]) -> dict[str, Any]:
        from vllm import LLM

        began = time.monotonic()
        defaults = {"dtype": "float32", "max_model_len": 8192, "enforce_eager": True, "skip_tokenizer_init": True,
                    "disable_log_stats": False, "enable_prefix_caching": True, "seed": 0}
        if "kv_events_config" in options:
            from vllm.config import KVEventsConfig

            options["kv_events_config"] = KVEventsConfig(**options["kv_events_config"])
        self.llm = LLM(model=model, kv_transfer_config=transfer, **{**defaults, **options})
        return {"seconds": time.monotonic() - began}

    def generate(self, prompts: list[list[int]], max_tokens: int, salts: list[str | None] | None = None,
                 logprobs: int | None = None, adapters: list[tuple[str, int, str] | None] | None = None) -> dict[str, Any]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False, logprobs=logprobs)
        inputs: list[dict[str, Any]] = [{"prompt_token_ids": prompt} for prompt in prompts]
        for each, salt in zip(inputs, salts or []):
            if salt:
                each["cache_salt"] = salt
        began = time.monotonic()
        outputs = self.llm.generate(inputs, params, use_tqdm=False,
                                    lora_request=[LoRARequest(*each) if each else None for each in adapters] if adapters else None)
        seconds = time.monotonic() - began
        metrics: dict[str, float] = {}
        for metric in self.llm.get_metrics():
            if isinstance(value := getattr(metric, "value", None), (int, float)):
                source = metric.labels.get("source")
                name = metric.name.removeprefix("vllm:") + (f"/{source}" if source else "")
                metrics[name] = metrics.get(name, 0) + value
        return {"tokens": [list(output.outputs[0].token_ids) for output in outputs],
                "cached": [output.num_cached_tokens for output in outputs],
                "first_token_seconds": [output.metrics.first_token_latency if output.metrics else None for output in outputs],
                "logprobs": [[{token: entry.logprob for token, entry in position.items()} for position in output.outputs[0].logprobs or ()]
                             for output in outputs],
                "reasons": [output.outputs[0].finish_reason for output in outputs], "seconds": seconds, "metrics": metrics}

    def forget(self) -> dict[str, Any]:
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("blocks are in use still")
        return {}

    def stop(self) -> dict[str, Any]:
        from vllm.distributed.kv_transfer import kv_transfer_state

        self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        kv_transfer_state.ensure_kv_transfer_shutdown()
        return {}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # vLLM's own lines go to the log
    engine = _Engine()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(engine, command.pop("do"))(**command)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test wants to read it
            import traceback

            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        out.write(MARK + json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
