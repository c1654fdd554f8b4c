#!/usr/bin/env python3
"""The directory's peers that run without a GPU, under the same events as directory_bench: Dynamo's RadixTree binding
and its standalone indexer (PyPI: ai-dynamo-runtime), each in a process of its own.

    directory_bench events --blocks 1e6 --shared-by 8 --events /tmp/events.bin
    directory_peers.py --venv /tmp/peers --events /tmp/events.bin --json /tmp/peers.json

A venv that is not there is made, and the packages are installed into it by pip. Events are made and encoded before the
clock starts; a run ends early at --limit-gib of resident memory, and says how many events it took.
"""
import argparse
import http.client
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

PACKAGES = ["ai-dynamo-runtime==1.6.1", "numpy", "pyzmq", "msgpack"]
BLOCK_TOKENS = 16
MODEL = "bench"
MASK = (1 << 64) - 1


def ensure_venv(venv, wheels):
    """Continues under the venv's Python."""
    python = pathlib.Path(venv) / "bin" / "python"
    if pathlib.Path(sys.prefix).resolve() == pathlib.Path(venv).resolve():
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    have = subprocess.run([python, "-c", "import dynamo._core, numpy, zmq, msgpack"], capture_output=True)
    if have.returncode != 0:
        links = ["--find-links", wheels] if wheels else []
        subprocess.run([python, "-m", "pip", "install", "--quiet", *links, *PACKAGES], check=True)
    os.execv(python, [str(python), *sys.argv])


def resident(pid="self"):
    """Without files that are mapped, such as the events."""
    with open(f"/proc/{pid}/statm") as file:
        fields = file.read().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGESIZE")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Events:
    """Records of directory_bench's event file: {u32 node, u32 count, u64 chain, u64 parent or 0, count x u64}."""

    def __init__(self, path):
        import numpy
        self.words = numpy.memmap(path, dtype="<u8", mode="r")
        self.records = []  # node, chain, first word of the fingerprints, count
        at = 0
        while at < len(self.words):
            head = int(self.words[at])
            count = head >> 32
            self.records.append((head & 0xFFFFFFFF, int(self.words[at + 1]), at + 3, count))
            at += 3 + count
        self.nodes = 1 + max(record[0] for record in self.records)
        self.longest = {}  # of each chain
        for record in self.records:
            known = self.longest.get(record[1])
            if known is None or record[3] > known[3]:
                self.longest[record[1]] = record
        self.distinct = sum(record[3] for record in self.longest.values())

    def fingerprints(self, record):
        return self.words[record[2]:record[2] + record[3]]


def percentiles(samples):
    ordered = sorted(samples)
    last = len(ordered) - 1
    return {"p50_us": ordered[last // 2] / 1e3, "p99_us": ordered[last * 99 // 100] / 1e3}


def picked_chains(events, depth, calls):
    """Of random chains that are long enough."""
    chains = [record for record in events.longest.values() if record[3] >= depth]
    return [chains[(i * 2654435761) % len(chains)] for i in range(calls)] if chains else []


def size_row(events, taken, distinct, grown, seconds):
    return {"holder_blocks": taken, "blocks": distinct, "whole_file": distinct == events.distinct,
            "B/block": grown / distinct, "B/holder_block": grown / taken, "blocks/s": taken / seconds}


class Distinct:
    """Counts distinct blocks of the records seen; a chain's records share their prefix."""

    def __init__(self):
        self.longest, self.count = {}, 0

    def add(self, record):
        before = self.longest.get(record[1], 0)
        if record[3] > before:
            self.longest[record[1]] = record[3]
            self.count += record[3] - before


def run_binding(events, depths, limit, calls):
    from dynamo._core import RadixTree
    tree = RadixTree()
    before, seconds, taken, distinct = resident(), 0.0, 0, Distinct()
    cached = (None, None)
    for number, record in enumerate(events.records):
        if cached[0] != (record[1], record[3]):
            blocks = [{"block_hash": int(f), "tokens_hash": int(f)} for f in events.fingerprints(record)]
            body = {"event_id": number, "data": {"stored": {"parent_hash": None, "blocks": blocks}}}
            cached = ((record[1], record[3]), json.dumps(body).encode())
        begin = time.perf_counter()
        tree.apply_event(record[0], cached[1])
        seconds += time.perf_counter() - begin
        taken += record[3]
        distinct.add(record)
        if resident() > limit:
            break
    row = size_row(events, taken, distinct.count, resident() - before, seconds)
    rows = [{"peer": "dynamo RadixTree", **row}]
    for depth in depths:
        samples = []
        for record in picked_chains(events, depth, calls):
            if record[1] not in distinct.longest:
                continue
            sequence = [int(f) for f in events.fingerprints(record)[:depth]]
            begin = time.perf_counter_ns()
            scores = tree.find_matches(sequence).scores
            samples.append(time.perf_counter_ns() - begin)
            assert max(scores.values()) == depth, scores
        if samples:
            rows.append({"peer": "dynamo RadixTree", "depth": depth, **percentiles(samples)})
    return rows


def tokens_of(fingerprints):
    """BLOCK_TOKENS token ids for each, as a flat list."""
    import numpy
    spread = numpy.arange(1, BLOCK_TOKENS + 1, dtype=numpy.uint64) * numpy.uint64(0x9E3779B97F4A7C15)
    mixed = (numpy.asarray(fingerprints)[:, None] ^ spread) * numpy.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> numpy.uint64(47)) & numpy.uint64(0x1FFFF)).astype(numpy.uint32).ravel().tolist()


class Indexer:
    """A running `python -m dynamo.indexer`, fed over ZMQ as an engine would."""

    def __init__(self, nodes, threads):
        import zmq
        self.context = zmq.Context()
        self.sockets = []
        for _ in range(nodes):
            publisher = self.context.socket(zmq.PUB)
            publisher.setsockopt(zmq.SNDHWM, 0)
            publisher.bind_to_random_port("tcp://127.0.0.1")
            self.sockets.append(publisher)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.process = subprocess.Popen([sys.executable, "-m", "dynamo.indexer", "--port", str(port), "--threads",
                                         str(threads)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = http.client.HTTPConnection("127.0.0.1", port)
        self.sequence = [0] * nodes
        while True:
            try:
                self.http.connect()
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit("dynamo.indexer does not start")
                time.sleep(0.05)
        self.http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for node, publisher in enumerate(self.sockets):
            endpoint = publisher.getsockopt_string(zmq.LAST_ENDPOINT)
            self.post("/register", {"instance_id": node, "endpoint": endpoint, "model_name": MODEL,
                                    "block_size": BLOCK_TOKENS})
        time.sleep(2)  # subscriptions travel

    def post(self, path, body):
        self.http.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        reply = self.http.getresponse()
        text = reply.read()
        if reply.status >= 300:
            raise SystemExit(f"{path}: {reply.status} {text[:200]}")
        return json.loads(text)

    def publish(self, node, payload):
        self.sockets[node].send_multipart([b"", self.sequence[node].to_bytes(8, "big"), payload])
        self.sequence[node] += 1

    def matched(self, hashes):
        """Blocks that each instance has of this chain."""
        signed = [h - (1 << 64) if h >> 63 else h for h in hashes]
        scores = self.post("/query_by_hash", {"block_hashes": signed, "model_name": MODEL})["scores"]
        return {int(node): max(ranks.values()) // BLOCK_TOKENS for node, ranks in scores.items()}

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.context.destroy(0)


def stored(record, tokens):
    import msgpack
    hashes = [int(f) for f in record]
    event = ["BlockStored", hashes, None, tokens, BLOCK_TOKENS, None, "GPU", None]
    return msgpack.packb([time.time(), [event], 0])


def run_indexer(events, depths, limit, calls):
    from dynamo._core import compute_block_hash_for_seq
    indexer = Indexer(events.nodes, 2)
    pid = indexer.process.pid
    before, taken, distinct = resident(pid), 0, Distinct()
    cached, payload, busy = None, None, 0.0
    burst = []
    last = {}

    def flush():
        """Sends what is prepared and waits until the last block of every node is visible."""
        begin = time.perf_counter()
        for node, message in burst:
            indexer.publish(node, message)
        for node, record in last.items():
            hashes = compute_block_hash_for_seq(tokens_of(events.fingerprints(record)), BLOCK_TOKENS)
            while indexer.matched(hashes).get(node, 0) < record[3]:
                time.sleep(0.001)
        burst.clear()
        last.clear()
        return time.perf_counter() - begin

    waiting = 0
    for record in events.records:
        if cached != (record[1], record[3]):
            fingerprints = events.fingerprints(record)
            payload = stored(fingerprints, tokens_of(fingerprints))
            cached = (record[1], record[3])
        burst.append((record[0], payload))
        last[record[0]] = record
        taken += record[3]
        waiting += record[3]
        distinct.add(record)
        if waiting >= 200_000:
            busy += flush()
            waiting = 0
            if resident(pid) > limit:
                break
    busy += flush()
    time.sleep(1)
    row = size_row(events, taken, distinct.count, resident(pid) - before, busy)
    row["cpu_us/block"] = cpu_seconds(pid) * 1e6 / taken
    rows = [{"peer": "dynamo.indexer", **row}]
    for depth in depths:
        samples = []
        for record in picked_chains(events, depth, calls):
            if record[1] not in distinct.longest:
                continue
            hashes = compute_block_hash_for_seq(tokens_of(events.fingerprints(record)[:depth]), BLOCK_TOKENS)
            begin = time.perf_counter_ns()
            matched = indexer.matched(hashes)
            samples.append(time.perf_counter_ns() - begin)
            assert max(matched.values()) == depth, matched
        if samples:
            rows.append({"peer": "dynamo.indexer", "depth": depth, **percentiles(samples)})
    indexer.close()
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", required=True, help="made and filled by pip when it is not there")
    parser.add_argument("--wheels", help="folder where pip looks for wheels too")
    parser.add_argument("--events", required=True, help="written by: directory_bench events")
    parser.add_argument("--peer", choices=["binding", "indexer", "all"], default="all")
    parser.add_argument("--depths", default="64,1000")
    parser.add_argument("--calls", type=int, default=2000, help="lookups per depth")
    parser.add_argument("--limit-gib", type=float, default=16, help="of resident memory; a run ends there")
    parser.add_argument("--json", help="write all rows there")
    arguments = parser.parse_args()
    ensure_venv(arguments.venv, arguments.wheels)
    if arguments.peer == "all":
        rows = []
        for peer in ("binding", "indexer"):
            command = [sys.executable, __file__, *sys.argv[1:], "--peer", peer, "--json", "/dev/stdout"]
            rows += json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    else:
        run = run_binding if arguments.peer == "binding" else run_indexer
        depths = [int(depth) for depth in arguments.depths.split(",")]
        rows = run(Events(arguments.events), depths, int(arguments.limit_gib * 2**30), arguments.calls)
    text = json.dumps(rows, indent=1)
    if arguments.json == "/dev/stdout":
        print(text)
        return
    for row in rows:
        print(" | ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
                         for name, value in row.items()))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(text)


if __name__ == "__main__":
    main()
