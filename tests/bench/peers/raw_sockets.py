"""What a bare socket does: a process sends blocks that it is asked for by number, another receives them into place. Limits,
not peers. `python raw_sockets.py ADDRESS PORT SIZES LENGTH SEEDS` is the sender alone, for another network namespace."""
import socket
import struct
import sys
import tempfile

import blocks
import servers

WINDOWS = (1, 64)
BUFFER_BYTES = 4 << 20


def _prepare(connection):
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def serve(address, sizes, length, seeds):
    """One connection for each size, in order; a request is {first, count} as two u32."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    listener = _prepare(socket.socket(family))
    if family == socket.AF_INET:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.listen(1)
    for size, seed in zip(sizes, seeds):
        connection, _ = listener.accept()
        _prepare(connection)
        view = memoryview(blocks.payload(seed, length // size * size))
        while request := connection.recv(8, socket.MSG_WAITALL):
            first, count = struct.unpack("<II", request)
            connection.sendall(view[first * size:(first + count) * size])


class _Getter:
    def __init__(self, address, size, target):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.connection = _prepare(socket.socket(family))
        self.connection.connect(address)
        self.size, self.target = size, memoryview(target)

    def __call__(self, first, count):
        self.connection.sendall(struct.pack("<II", first, count))
        place = self.target[first * self.size:(first + count) * self.size]
        while place:
            got = self.connection.recv_into(place, 0, socket.MSG_WAITALL)
            if got == 0:
                raise RuntimeError("the sender hung up")
            place = place[got:]

    def close(self):
        self.connection.close()


def receive(address, peer, work, rows):
    for size in work.sizes:
        target = blocks.pages(work.length_of(size))
        get = _Getter(address, size, target)
        for window in WINDOWS:
            blocks.timed(get, size, target, window, blocks.seed_of(work.round, size), rows, peer=peer)
        get.close()


def sender_command(python, host, port, work):
    seeds = [blocks.seed_of(work.round, size) for size in work.sizes]
    return [python, __file__, host, port, ",".join(map(str, work.sizes)), work.length, ",".join(map(str, seeds))]


def measure(python, work):
    rows, port = [], servers.free_port()
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        for peer, host, address in (("unix socket", f"{folder}/socket", f"{folder}/socket"),
                                    ("tcp socket", "127.0.0.1", ("127.0.0.1", port))):
            waits = {"path": address} if peer == "unix socket" else {"port": port}
            server = servers.Server(sender_command(python, host, port, work), **waits)
            try:
                receive(address, peer, work, rows)
            finally:
                server.close()
    return rows


if __name__ == "__main__":
    HOST, PORT, SIZES, LENGTH, SEEDS = sys.argv[1:]
    serve(HOST if "/" in HOST else (HOST, int(PORT)), [int(size) for size in SIZES.split(",")], int(LENGTH),
          [int(seed) for seed in SEEDS.split(",")])
