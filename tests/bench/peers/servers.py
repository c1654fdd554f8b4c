"""Server processes of a peer, for as long as a round: free ports, waiting until one listens, ending what was started."""
import pathlib
import socket
import subprocess
import tempfile
import time

START_SECONDS = 20


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(pid, port):
    """By the kernel's table, in the process's own network namespace: to connect would be taken for the one client."""
    for name in ("tcp", "tcp6"):
        try:
            lines = pathlib.Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == "0A" and int(fields[1].rsplit(":", 1)[1], 16) == port:
                return True
    return False


class Server:
    def __init__(self, command, environment=None, port=None, path=None):
        """Returns once it listens on the port, or the Unix socket's path is there; raises with its last words if not."""
        self.command = [str(word) for word in command]
        self.said = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, env=environment, stdin=subprocess.DEVNULL, stdout=self.said,
                                        stderr=subprocess.STDOUT)
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if port is not None and _listens(self.process.pid, port):
                return
            if path is not None and pathlib.Path(path).exists():
                return
            time.sleep(0.01)
        name = pathlib.Path(self.command[0]).name
        raise RuntimeError(f"{name} does not start: {self.close() or 'it says nothing'}")

    def close(self):
        """Ends it; its last words."""
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.said.seek(0)
        lines = [line for line in self.said.read().decode(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-2:])
