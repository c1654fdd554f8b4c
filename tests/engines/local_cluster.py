"""A cluster of real processes by stemctl, for tests and the demo: what it holds, and what goes wrong with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request


class LocalCluster:
    """Started when made. `binaries`: folder of stemctl and the daemons."""

    def __init__(self, binaries: str, nodes: int = 2, dram: str = "64MiB", ssd: str = "0", map_host_peers: bool = True) -> None:
        self._binaries, self._stemctl = binaries, os.path.join(binaries, "stemctl")
        self._nodes: list[subprocess.Popen] = []
        self.dir = tempfile.mkdtemp(prefix="stem.")
        self._options = ["--nodes", str(nodes), "--dram", dram, "--ssd", ssd, "--map-host-peers", str(map_host_peers).lower()]
        self.up()

    def up(self, resume: bool = False) -> None:
        report = os.path.join(self.dir, "up.json")
        command = [self._stemctl, "cluster", "up", "--dir", self.dir, "--json", report, *(["--resume"] if resume else self._options)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        with open(report) as text:
            self.state = json.load(text)

    def stop(self) -> None:
        """All processes; their SSD tiers stay."""
        subprocess.run([self._stemctl, "cluster", "down", "--dir", self.dir], capture_output=True, check=False)

    def start_node(self, name: str, *flags: str) -> tuple[str, str]:
        """One node more, with flags that stemctl does not give: its socket, as node(), and its log. Gone with the cluster."""
        folder = os.path.join(self.dir, name)
        os.makedirs(folder)
        ready, log = os.path.join(folder, "ready"), os.path.join(folder, "log")
        command = [os.path.join(self._binaries, "stem-node"), "--name", name, "--socket", f"{folder}/node.sock", "--listen", "127.0.0.1:0",
                   "--http", "127.0.0.1:0", "--directory", self.directory, "--secret-file", self.secret_file, "--dram", "64MiB",
                   "--ready-file", ready, *flags]
        with open(log, "w") as out:
            self._nodes.append(subprocess.Popen(command, stdout=out, stderr=out))
        until(lambda: os.path.exists(ready) or self._nodes[-1].poll() is not None)
        with open(log) as text:
            assert os.path.exists(ready), text.read()
        return f"unix://{folder}/node.sock", log

    def down(self) -> None:
        for node in self._nodes:
            node.terminate()
            node.wait()
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    def node(self, index: int) -> str:
        return "unix://" + self.state["nodes"][index]["socket"]

    @staticmethod
    def name(index: int) -> str:
        return f"node-{index + 1}"

    @property
    def directory(self) -> str:
        return self.state["directory"]["listen"]

    @property
    def secret_file(self) -> str:
        return os.path.join(self.dir, "secret")

    def pid(self, index: int) -> int:
        return self.state["nodes"][index]["pid"]

    def kill(self, index: int) -> None:
        os.kill(self.pid(index), signal.SIGKILL)

    def metrics(self, index: int) -> dict[str, float]:
        """Sum of each series over its labels."""
        text = urllib.request.urlopen(f"http://{self.state['nodes'][index]['http']}/metrics", timeout=10).read().decode()
        out: dict[str, float] = {}
        for name, value in re.findall(r"^(\w+)(?:\{[^}]*\})? ([-+.\de]+)$", text, re.M):
            out[name] = out.get(name, 0.0) + float(value)
        return out

    def alter(self, index: int, fingerprint: bytes, key: bytes, offset: int) -> int:
        """Flips a bit of the payload of `key` in the node's memory, as a stray write would; returns how many copies had it."""
        return self._flip(index, b"STEM" + (1).to_bytes(4, "little") + fingerprint + key, offset)

    def alter_all(self, index: int, offset: int) -> int:
        """The same for every block that the node has in memory."""
        return self._flip(index, b"STEM" + (1).to_bytes(4, "little"), offset)

    def _flip(self, index: int, head: bytes, offset: int) -> int:
        altered = 0
        with open(f"/proc/{self.pid(index)}/maps") as maps, open(f"/proc/{self.pid(index)}/mem", "r+b", buffering=0) as memory:
            for line in maps:
                first, end, mode = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+)", line).groups()
                if "memfd:" not in line or not mode.startswith("rw"):
                    continue
                for place in self._headers(memory, int(first, 16), int(end, 16), head):
                    memory.seek(place + 128 + offset)
                    byte = memory.read(1)[0]
                    memory.seek(place + 128 + offset)
                    memory.write(bytes([byte ^ 0x40]))
                    altered += 1
        return altered

    @staticmethod
    def _headers(memory, first: int, end: int, head: bytes) -> list[int]:
        """Addresses of slot headers that begin so: 128 bytes before a page."""
        memory.seek(first)
        content, size = bytearray(), end - first
        while len(content) < size and (piece := memory.read(size - len(content))):
            content += piece
        return [first + at for at in range(4096 - 128, len(content), 4096) if content[at:at + len(head)] == head]


def until(holds, seconds: float = 30.0) -> None:
    """Waits for `holds()`; a hang fails."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
