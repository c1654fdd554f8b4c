"""Ours: `stemctl bench block`, which starts a cluster of its own, and compares every byte after its clock has stopped."""
import json
import pathlib
import subprocess

TIMEOUT_SECONDS = 150
RATE = "_bytes_per_second"
# (row's name, path, proof of the client's copy, stem lengths)
CASES = [
    ("local, header", "local", "header", (1, 64)),
    ("local, full", "local", "full", (64,)),
    ("get, header", "local-get", "header", (1, 64)),
    ("get, full", "local-get", "full", (1, 64)),
    ("remote-shm, header", "remote-shm", "header", (64,)),
    ("remote-tcp, header", "remote-tcp", "header", (64,)),
    ("remote-tcp, full", "remote-tcp", "full", (64,)),
]


def bench(binary, path, proof, stems, work):
    command = [str(binary), "bench", "block", "--path", path, "--proof", proof, "--rounds", "1", "--json", "-",
               "--sizes", ",".join(map(str, work.sizes)), "--stem-blocks", ",".join(map(str, stems)),
               "--working-set", str(work.length)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    if done.returncode != 0:
        raise RuntimeError(f"stemctl bench block --path {path}: {done.stderr.strip().splitlines()[-1:]}")
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, list) else answer["rows"]


def to_row(peer, row):
    return {"peer": peer, "size": row["block_bytes"], "window": row["stem_blocks"], "rate": row["bytes_per_second"],
            "p50_us": row["stem_us"]["p50"], "cpu_seconds_per_gb": row.get("cpu_seconds_per_gb")}


def transport(binary, work):
    """What a node's transport does alone, from slots into slots, as UCX's own benchmark measures: an engine's copy comes on top."""
    command = [str(pathlib.Path(binary).with_name("transport_bench")), "--benchmark_filter=messages", "--benchmark_format=json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return [{"problem": f"transport_bench: {error}"}]
    rows = []
    for run in json.loads(done.stdout)["benchmarks"]:
        size = int(run["name"].split("/")[1])
        if size in work.sizes:
            rows.append({"peer": "stemcache transport", "size": size, "window": 16, "rate": run["bytes_per_second"],
                         "cpu_seconds_per_gb": run["cpu_s_per_GB"]})
    return rows


def measure(binary, work):
    rows = transport(binary, work)
    for name, path, proof, stems in CASES:
        for row in bench(binary, path, proof, stems, work):
            rows.append(to_row(f"stemcache {name}", row))
            for limit, rate in row.get("limits", {}).items():
                if limit.endswith(RATE) and rate and row["stem_blocks"] == 64:
                    rows.append({"peer": f"limit {path} {limit.removesuffix(RATE)}", "window": 64,
                                 "size": row["block_bytes"], "rate": rate})
    return rows
