"""Time to the first token from the tier beside vLLM's own prefix cache, the same prompts: a fresh replica on another node answers what
the first one computed, then answers it again from its own cache.

    vllm_first_token.py --binaries FOLDER [--rounds N] [--prompts N] [--prompt-tokens N] [--layers N] [--hidden N] [--load async|sync]
Prints milliseconds of each: cold; of the replica's first requests in order; and medians of rounds in which it forgot its own cache. vLLM
itself is slow in its first steps of a new size (its allocator), so prompts that are not of the measurement run before.
"""

from __future__ import annotations

import argparse
import pathlib
import random
import statistics
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.engines import tiny_model  # noqa: E402
from tests.engines.local_cluster import LocalCluster  # noqa: E402
from tests.engines.vllm_process import VllmProcess, transfer_config  # noqa: E402

WARM_UPS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=3000)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--load", default="async")
    arguments = parser.parse_args()

    def prompt(seed: int) -> list[int]:
        rng = random.Random(seed)
        return [rng.randrange(4096) for _ in range(arguments.prompt_tokens)]

    def first_token_ms(engine: VllmProcess, tokens: list[int]) -> float:
        return engine.generate([tokens], 2)["first_token_seconds"][0] * 1000

    prompts = [prompt(seed) for seed in range(1, arguments.prompts + 1)]
    cluster = LocalCluster(arguments.binaries, dram="1GiB")
    try:
        with tempfile.TemporaryDirectory(prefix="stem-vllm.") as folder:
            model = tiny_model.make(folder, arguments.layers, arguments.hidden)
            with VllmProcess() as a:
                a.start(model, transfer_config(cluster.node(0)))
                first_token_ms(a, prompt(0))
                cold = [first_token_ms(a, each) for each in prompts]
                a.generate([[1, 2, 3]], 4)  # the last saves go with a step
            with VllmProcess() as b:
                b.start(model, transfer_config(cluster.node(1), load=arguments.load))
                for _ in range(WARM_UPS + 1):
                    first_token_ms(b, prompt(-1))
                first = [first_token_ms(b, each) for each in prompts]
                tier, local = [], []
                for _ in range(arguments.rounds):
                    local += [first_token_ms(b, each) for each in prompts]
                    b.forget()
                    tier += [first_token_ms(b, each) for each in prompts]
    finally:
        cluster.down()
    for name, values in (("cold", cold), ("tier, first requests", first), ("tier", tier), ("local", local)):
        print(f"{name:<22} {' '.join(f'{value:6.0f}' for value in values[:12])} ms, median {statistics.median(values):.1f}")
    print(f"cold / tier {statistics.median(cold) / statistics.median(tier):.1f}, tier / local "
          f"{statistics.median(tier) / statistics.median(local):.2f}, first request / local {first[0] / statistics.median(local):.2f}")


if __name__ == "__main__":
    main()
