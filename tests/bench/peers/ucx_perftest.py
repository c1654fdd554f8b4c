"""UCX's own benchmark over TCP: what its gets, puts and active messages reach with segments and socket buffers like ours.
It sends one buffer again and again, which stays in the cache; so each test is also run with one message as long as the
working set, which no cache holds, out of memory that was written before (a page never written is a page of zeros that all
share, and that is always in the cache)."""
import subprocess

import servers

TIMEOUT_SECONDS = 20
BYTES_PER_TEST = 128 << 20


def _tcp(segment, **more):
    return {"UCX_TLS": "tcp", "UCX_TCP_TX_SEG_SIZE": segment, "UCX_TCP_RX_SEG_SIZE": segment, "UCX_TCP_SNDBUF": "4m",
            "UCX_TCP_RCVBUF": "4m", "UCX_WARN_UNUSED_ENV_VARS": "n", **more}


# name -> (test, environment, arguments). Active messages below the rendezvous threshold are not copied into place, so all
# of them go by rendezvous, whose receiver says where.
TESTS = {
    "get": ("ucp_get", _tcp("257k"), []),
    "get, 4 at once": ("ucp_get", _tcp("257k"), ["-O", "4"]),
    "put": ("ucp_put_bw", _tcp("257k"), []),
    "am, rendezvous by get": ("ucp_am_bw", _tcp("257k", UCX_RNDV_THRESH="0", UCX_RNDV_SCHEME="get_zcopy"), []),
}
FEW = ("get, 4 at once", "put", "am, rendezvous by get")


WRITTEN = {"UCX_ALLOC_PRIO": "heap", "MALLOC_PERTURB_": "85"}  # malloc fills what it gives


class Lane:
    """Where the two ends run."""

    def __init__(self, devices=("lo", "lo"), address="127.0.0.1", server_prefix=(), client_prefix=()):
        self.devices, self.address = devices, address
        self.prefixes = (list(server_prefix), list(client_prefix))


def one(binary, environment, name, size, count, lane, **settings):
    """Bytes per second."""
    test, tuning, more = TESTS[name]
    port = servers.free_port()
    command = [binary, "-p", str(port), "-t", test, "-s", str(size), "-n", str(count), "-w", "1", "-f", *more]
    environments = [dict(environment, **tuning, **settings, UCX_NET_DEVICES=device) for device in lane.devices]
    server = servers.Server([*lane.prefixes[0], *command], environments[0], port=port)
    try:
        done = subprocess.run([*lane.prefixes[1], command[0], lane.address, *command[1:]], env=environments[1],
                              capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    finally:
        server.close()
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{test}: {(done.stderr.strip().splitlines() or lines or ['no answer'])[-1]}")
    return float(lines[-1].split()[-3]) * (1 << 20)  # overall, in MiB/s


def measure(binary, environment, peer, work, tests, lane=None):
    """Rows; what fails is a row {"problem": why}."""
    rows, lane = [], lane or Lane()
    for name in tests:
        for size in [*work.sizes, work.length]:
            cold = size == work.length
            count = 2 if cold else BYTES_PER_TEST // size
            try:
                rate = one(binary, environment, name, size, count, lane, **(WRITTEN if cold else {}))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                rows.append({"problem": f"{name} at {size}: {error}"})
                continue
            rows.append({"peer": f"{peer} {name}", "size": "cold" if cold else size, "window": 0,
                         "rate": rate})
    return rows
