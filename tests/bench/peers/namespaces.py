"""Two network namespaces joined by a veth pair, where the machine lets us make them: sockets, UCX and ours between two
stacks rather than over loopback, which has a larger MTU and no second stack."""
import contextlib
import ctypes
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

import raw_sockets
import servers
import stemctl_bench
import ucx_perftest

CLONE_NEWNET = 0x40000000
NETWORK = "10.213.77"
CARRIER_SECONDS = 5
# Stands for a daemon in the folder of a stemctl, which starts daemons out of its own folder and lets them listen on
# loopback: node-2 goes to the second namespace, everything else to the first, each listening there. Clients come by Unix
# sockets, which know no network namespaces.
DAEMON = """#!/bin/sh
end=1 namespace={0}
case " $* " in *" --name node-2 "*) end=2 namespace={1} ;; esac
left=$#
while [ "$left" -gt 0 ]; do
  word=$1
  shift
  [ "$last" != --listen ] || word={network}.$end:0
  last=$word
  set -- "$@" "$word"
  left=$((left - 1))
done
exec ip netns exec "$namespace" {daemon} "$@" --insecure-allow-remote
"""


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _await_carrier(namespace, device):
    """The kernel may tell only after a second; until then UCX does not see the device."""
    end = time.monotonic() + CARRIER_SECONDS
    while "state UP" not in _ip("-n", namespace, "-o", "link", "show", device):
        if time.monotonic() > end:
            raise RuntimeError(f"{device} in {namespace} does not come up")
        time.sleep(0.05)


@contextlib.contextmanager
def pair():
    """Names of two namespaces; .1 and .2 of NETWORK on stem0 and stem1."""
    names = [f"stem-peers-{os.getpid()}-{end}" for end in (0, 1)]
    made = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
        _ip("link", "add", "stem0", "netns", names[0], "type", "veth", "peer", "name", "stem1", "netns", names[1])
        for end, name in enumerate(names):
            _ip("-n", name, "addr", "add", f"{NETWORK}.{end + 1}/30", "dev", f"stem{end}")
            _ip("-n", name, "link", "set", f"stem{end}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        for end, name in enumerate(names):
            _await_carrier(name, f"stem{end}")
        yield names
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _enter(name):
    """This thread, and processes that it starts."""
    with open(f"/run/netns/{name}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {name}")


def _measure_ours(stemctl, names, work):
    rows = []
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        shutil.copy(stemctl, folder)
        for daemon in ("stem-directory", "stem-node"):
            script = pathlib.Path(folder) / daemon
            script.write_text(DAEMON.format(*names, network=NETWORK, daemon=stemctl.resolve().parent / daemon))
            script.chmod(0o755)
        for row in stemctl_bench.bench(f"{folder}/stemctl", "remote-tcp", "header", (64,), work):
            rows.append(stemctl_bench.to_row("veth stemcache, header", row))
    return rows


def measure(python, stemctl, ucx, work):
    """ucx: (ucx_perftest, its environment)."""
    with pair() as (owner, reader):
        try:
            ours = _measure_ours(stemctl, (owner, reader), work)
        except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
            ours = [{"problem": str(error)}]
        port, within = servers.free_port(), ["ip", "netns", "exec", owner]
        lane = ucx_perftest.Lane(("stem0", "stem1"), f"{NETWORK}.1", within, ["ip", "netns", "exec", reader])
        rows = ours + ucx_perftest.measure(*ucx, "veth ucx", work, ucx_perftest.FEW, lane)
        server = servers.Server([*within, *raw_sockets.sender_command(python, f"{NETWORK}.1", port, work)], port=port)
        try:
            _enter(reader)
            raw_sockets.receive((f"{NETWORK}.1", port), "veth tcp socket", work, rows)
        finally:
            server.close()
        return rows
