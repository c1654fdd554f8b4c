"""The demo of deploy/quickstart.sh --engine vllm: two vLLM servers, two nodes, one directory. Server A answers a long prompt; B, fresh,
answers the same prompt and the next turn of the chat. Prints a table of times to the first token, says whether every token is what a
server without the tier answers, and leaves a plot and the figures as JSON.

    vllm_demo.py --binaries FOLDER --out FOLDER [--prompt-tokens N] [--layers N] [--hidden N]
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import socket
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
        environment = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
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
                ids = json.loads(line[6:])["choices"][0].get("token_ids") or []
                if ids and first is None:
                    first = time.monotonic() - began
                tokens += ids
        return first or 0.0, tokens

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

    prompt, warm_up = tokens(1, arguments.prompt_tokens), tokens(2, arguments.prompt_tokens)
    figures: dict = {"prompt_tokens": len(prompt), "layers": arguments.layers, "hidden": arguments.hidden}
    print("starting vLLM without the tier", flush=True)
    plain = Server(model, None, os.path.join(folder, "plain.log"))
    try:
        plain.await_ready()
        for _ in range(WARM_UPS):
            plain.answer(warm_up, 1)
        figures["cold, vLLM alone"], truth = plain.answer(prompt)
        figures["local hit, vLLM alone"], _ = plain.answer(prompt)
        turn = prompt + truth + tokens(3, 200)
        _, truth_turn = plain.answer(turn)
    finally:
        plain.stop()
    print("starting two nodes, a directory and two vLLM servers", flush=True)
    cluster = LocalCluster(arguments.binaries, dram="1GiB")
    servers = []
    try:
        for index in (0, 1):
            servers.append(Server(model, transfer_config(cluster.node(index)), os.path.join(folder, f"server-{'ab'[index]}.log")))
        for server in servers:
            server.await_ready()
        a, b = servers
        for server, own in ((a, warm_up), (b, tokens(4, len(prompt)))):
            for _ in range(WARM_UPS):
                server.answer(own, 1)
        figures["cold, A"], tokens_a = a.answer(prompt)
        figures["from the tier, B"], tokens_b = b.answer(prompt)
        figures["local hit, B"], tokens_again = b.answer(prompt)
        figures["next turn, B"], tokens_turn = b.answer(turn)
        figures["external hits of B, tokens"] = b.metric("vllm:external_prefix_cache_hits_total")
        figures["loaded and proved by B, bytes"] = b.metric("vllm:stemcache_load_bytes_total")
        figures["identical tokens"] = [tokens_a, tokens_b, tokens_again, tokens_turn] == [truth, truth, truth, truth_turn]
    finally:
        for server in servers:
            server.stop()
        cluster.down()
    return figures


def plot(figures: dict, path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name, value in figures.items() if "," in name and isinstance(value, float) and value < 1000 and "tokens" not in name
             and "bytes" not in name]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(names) + 1.2))
    bars = axes.barh(names, [figures[name] * 1000 for name in names])
    axes.bar_label(bars, fmt="%.0f ms", padding=3)
    axes.margins(x=0.15)  # room for the labels
    axes.invert_yaxis()
    axes.set_xlabel(f"time to the first token of a prompt of {figures['prompt_tokens']} tokens, ms")
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
    print(f"\nTime to the first token, prompt of {figures['prompt_tokens']} tokens")
    for name, value in figures.items():
        if isinstance(value, float) and "tokens" not in name and "bytes" not in name:
            print(f"  {name:<24} {value * 1000:8.0f} ms")
    print(f"  cold / from the tier     {figures['cold, A'] / figures['from the tier, B']:8.1f} x")
    print(f"  from the tier / local    {figures['from the tier, B'] / figures['local hit, B']:8.2f} x")
    print(f"  B did not compute        {figures['external hits of B, tokens']:8.0f} tokens")
    print(f"  tokens identical         {'yes' if figures['identical tokens'] else 'NO':>8}")
    print(f"plot and figures: {arguments.out}/vllm.png, vllm.json")
    return 0 if figures["identical tokens"] else 1


if __name__ == "__main__":
    sys.exit(main())
