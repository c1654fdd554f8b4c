"""The demo of deploy/quickstart.sh --engine vllm: two vLLM servers, two nodes, one directory. Server A answers long prompts; B, fresh,
answers the same prompts and the next turns of the chats. Prints a table of times to the first token, medians, says whether every token is
what a server without the tier answers, and leaves a plot and the figures as JSON.

    vllm_demo.py --binaries FOLDER --out FOLDER [--prompt-tokens N] [--layers N] [--hidden N]
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.engines import tiny_model  # noqa: E402
from tests.engines.local_cluster import LocalCluster  # noqa: E402
from tests.engines.vllm_process import ENVIRONMENT, transfer_config  # noqa: E402

NEW_TOKENS = 128
WARM_UPS = 6  # vLLM's own first steps of a new size are slow: every server answers a prompt of its own so often before it is measured
PROMPTS = 5
# Two servers share this machine, and of each a scheduler that spins while its worker computes, and a worker that spins for a second after
# its last step. So each computes with its share of the cores less one, and rests before what is measured: with more threads than cores
# their barriers wait for a core, and the first step after a load took up to half a second of 2 cores where the load took 20 ms.
WORKER_THREADS = max(1, (os.cpu_count() or 2) // 2 - 1)
REST_S = 1.5


class Server:
    """`vllm serve`, ready when made."""

    def __init__(self, model: str, transfer: dict | None, log: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model, "--host", "127.0.0.1", "--port", str(self._port),
                   "--dtype", "float32", "--max-model-len", "8192", "--enforce-eager", "--enable-prefix-caching"]
        if transfer is not None:
            command += ["--kv-transfer-config", json.dumps(transfer)]
        self._model, self._log = model, log
        self.url = f"http://127.0.0.1:{self._port}"
        environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(WORKER_THREADS), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with open(log, "w") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def await_ready(self, seconds: float = 400) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > end:
                    with open(self._log) as log:
                        raise RuntimeError(f"vllm serve is not ready:\n{log.read()[-4000:]}") from None
                time.sleep(0.2)

    def answer(self, prompt: list[int], max_tokens: int = NEW_TOKENS) -> tuple[float, list[int]]:
        """Seconds to the first token, and the tokens."""
        body = {"model": self._model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "return_token_ids": True}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/v1/completions", json.dumps(body).encode(),
                                         {"Content-Type": "application/json"})
        began, first, tokens = time.monotonic(), None, []
        with urllib.request.urlopen(request, timeout=300) as stream:
            for line in stream:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                said = json.loads(line[6:])
                if "choices" not in said:
                    with open(self._log) as log:
                        raise RuntimeError(f"vllm serve answered {said}:\n{log.read()[-4000:]}")
                ids = said["choices"][0].get("token_ids") or []
                if ids and first is None:
                    first = time.monotonic() - began
                tokens += ids
        return first or 0.0, tokens

    def warm_up(self, prompt: list[int]) -> None:
        for _ in range(WARM_UPS):
            self.answer(prompt, 1)

    def metric(self, name: str) -> float:
        text = urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def measure(arguments: argparse.Namespace, folder: str) -> dict:
    """Figures of one run, by name."""
    model = tiny_model.make(os.path.join(folder, "model"), arguments.layers, arguments.hidden)

    def tokens(seed: int, count: int) -> list[int]:
        rng = random.Random(seed)
        return [rng.randrange(4096) for _ in range(count)]

    prompts = [tokens(1000 + i, arguments.prompt_tokens) for i in range(PROMPTS)]
    times: dict[str, list[float]] = {}

    def ask(name: str, server: Server, prompt: list[int]) -> list[int]:
        time.sleep(REST_S)
        seconds, answer = server.answer(prompt)
        times.setdefault(name, []).append(seconds)
        return answer

    print("starting vLLM without the tier", flush=True)
    plain = Server(model, None, os.path.join(folder, "plain.log"))
    truth = []
    try:
        plain.await_ready()
        plain.warm_up(tokens(1, arguments.prompt_tokens))
        for prompt in prompts:
            answer = ask("cold, vLLM alone", plain, prompt)
            ask("local hit, vLLM alone", plain, prompt)
            turn = prompt + answer + tokens(3, 200)
            truth.append((turn, answer, ask("next turn, vLLM alone", plain, turn)))
    finally:
        plain.stop()
    print("starting two nodes, a directory and two vLLM servers", flush=True)
    cluster = LocalCluster(arguments.binaries, dram="1GiB")
    servers = []
    identical = True
    try:
        for index in (0, 1):
            servers.append(Server(model, transfer_config(cluster.node(index)), os.path.join(folder, f"server-{'ab'[index]}.log")))
        for index, server in enumerate(servers):
            server.await_ready()
            server.warm_up(tokens(10 + index, arguments.prompt_tokens))
        a, b = servers
        for prompt, (turn, answer, next_answer) in zip(prompts, truth):
            answers = [ask("cold, A", a, prompt), ask("from the tier, B", b, prompt), ask("local hit, B", b, prompt),
                       ask("next turn, B", b, turn)]
            identical &= answers == [answer, answer, answer, next_answer]
        external = b.metric("vllm:external_prefix_cache_hits_total")
        loaded_bytes = b.metric("vllm:stemcache_load_bytes_total")
    finally:
        for server in servers:
            server.stop()
        cluster.down()
    return {"prompt_tokens": arguments.prompt_tokens, "prompts": PROMPTS, "worker_threads": WORKER_THREADS, "layers": arguments.layers, "hidden": arguments.hidden,
            "first_token_s": times, "external_hits_b_tokens": external, "loaded_and_proved_b_bytes": loaded_bytes,
            "identical_tokens": identical}


def medians(figures: dict) -> dict[str, float]:
    """Milliseconds to the first token, by name."""
    return {name: statistics.median(seconds) * 1000 for name, seconds in figures["first_token_s"].items()}


def plot(figures: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = medians(figures)
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(shown) + 1.2))
    bars = axes.barh(list(shown), list(shown.values()))
    axes.bar_label(bars, fmt="%.0f ms", padding=3)
    axes.margins(x=0.15)  # room for the labels
    axes.invert_yaxis()
    axes.set_xlabel(f"time to the first token of a prompt of {figures['prompt_tokens']} tokens, ms, median of {figures['prompts']}")
    figure.tight_layout()
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=1024)
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stem-vllm.") as folder:
        figures = measure(arguments, folder)
    with open(os.path.join(arguments.out, "vllm.json"), "w") as out:
        json.dump(figures, out, indent=2)
    plot(figures, os.path.join(arguments.out, "vllm.png"))
    shown = medians(figures)
    print(f"\nTime to the first token, prompts of {figures['prompt_tokens']} tokens, medians of {figures['prompts']} (shortest to longest)")
    for name, value in shown.items():
        seconds = figures["first_token_s"][name]
        print(f"  {name:<24} {value:8.0f} ms   ({min(seconds) * 1000:.0f} to {max(seconds) * 1000:.0f})")
    print(f"  cold / from the tier     {shown['cold, A'] / shown['from the tier, B']:8.1f} x")
    print(f"  from the tier / local    {shown['from the tier, B'] / shown['local hit, B']:8.2f} x")
    print(f"  B did not compute        {figures['external_hits_b_tokens']:8.0f} tokens")
    print(f"  tokens identical         {'yes' if figures['identical_tokens'] else 'NO':>8}")
    print(f"plot and figures: {arguments.out}/vllm.png, vllm.json")
    return 0 if figures["identical_tokens"] else 1


if __name__ == "__main__":
    sys.exit(main())
