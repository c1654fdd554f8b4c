"""What the tier costs when nothing hits: throughput of vLLM with the connector beside vLLM without it, the same fresh prompts, in turns.

    vllm_overhead.py --binaries FOLDER [--rounds N] [--prompts N] [--prompt-tokens N] [--layers N] [--hidden N]
Each round is a pair, one right after the other, and the next pair is the other way round: what else runs on the machine is shared.
Prints tokens a second of each round, and the median of the pairs' ratios.
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--binaries", required=True)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt-tokens", type=int, default=700)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=1024)
    arguments = parser.parse_args()
    speeds: dict[str, list[float]] = {"without": [], "with": []}
    cluster = LocalCluster(arguments.binaries, dram="1GiB")
    try:
        with tempfile.TemporaryDirectory(prefix="stem-vllm.") as folder, VllmProcess() as plain, VllmProcess() as tiered:
            model = tiny_model.make(folder, arguments.layers, arguments.hidden)
            engines = [("without", plain), ("with", tiered)]
            plain.start(model)
            tiered.start(model, transfer_config(cluster.node(0)))
            for round_number in range(arguments.rounds + 1):
                rng = random.Random(round_number)
                prompts = [[rng.randrange(4096) for _ in range(arguments.prompt_tokens)] for _ in range(arguments.prompts)]
                for name, engine in engines:
                    answer = engine.generate(prompts, 32)
                    if name == "with":
                        metrics = answer["metrics"]
                    if round_number > 0:  # the first is for warming up
                        speeds[name].append(arguments.prompts * (arguments.prompt_tokens + 32) / answer["seconds"])
                engines.reverse()
            assert metrics["external_prefix_cache_hits"] == 0 and metrics["stemcache_blocks_saved"] > 0
    finally:
        cluster.down()
    ratios = [tiered / plain for plain, tiered in zip(speeds["without"], speeds["with"])]
    for name, values in speeds.items():
        print(f"{name:<8} {' '.join(f'{value:6.0f}' for value in values)} tokens/s, median {statistics.median(values):.0f}")
    quarters = statistics.quantiles(ratios, n=4)
    print(f"with / without: median of {len(ratios)} pairs {statistics.median(ratios):.3f}, half of them {quarters[0]:.3f} to {quarters[2]:.3f}")


if __name__ == "__main__":
    main()
