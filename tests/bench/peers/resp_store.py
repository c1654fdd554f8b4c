"""Redis and Valkey over a Unix socket, in their raw protocol: replies are scattered by the kernel straight into place."""
import pathlib
import socket
import tempfile

import blocks
import servers

WINDOWS = (1, 64)


def _connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def _key(index):
    return b"block:%08d" % index


def _command(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _receive(connection, buffers):
    """Fills all of them."""
    want = sum(len(buffer) for buffer in buffers)
    got = connection.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]
    while got < want:
        if got == 0:
            raise RuntimeError("the server hung up")
        skip = got
        while skip >= len(buffers[0]):
            skip -= len(buffers.pop(0))
        buffers[0] = buffers[0][skip:]
        want -= got
        got = connection.recvmsg_into(buffers, 0, socket.MSG_WAITALL)[0]


def _expect(connection, reply):
    seen = memoryview(bytearray(len(reply)))
    _receive(connection, [seen])
    if bytes(seen) != reply:
        raise RuntimeError(f"the server said {bytes(seen)!r}, not {reply!r}")


class _Putter:
    def __init__(self, path):
        self.connection = _connect(path)

    def __call__(self, seed, size, length):
        self.connection.sendall(_command(b"FLUSHALL"))
        _expect(self.connection, b"+OK\r\n")
        data = memoryview(blocks.payload(seed, length))
        for index in range(length // size):
            self.connection.sendall(b"*3\r\n$3\r\nSET\r\n$14\r\n%b\r\n$%d\r\n" % (_key(index), size))
            self.connection.sendall(data[index * size:(index + 1) * size])
            self.connection.sendall(b"\r\n")
            _expect(self.connection, b"+OK\r\n")


class _Getter:
    def __init__(self, path, size, target):
        self.connection, self.size, self.target = _connect(path), size, memoryview(target)
        self.head = b"$%d\r\n" % size

    def __call__(self, first, count):
        ask = b"".join(b"*2\r\n$3\r\nGET\r\n$14\r\n%b\r\n" % _key(index) for index in range(first, first + count))
        heads = [memoryview(bytearray(len(self.head))) for _ in range(count)]
        buffers, end = [], memoryview(bytearray(2))
        for number, head in enumerate(heads):
            at = (first + number) * self.size
            buffers += [head, self.target[at:at + self.size], end]
        self.connection.sendall(ask)
        _receive(self.connection, buffers)
        for head in heads:
            if head != self.head:
                raise RuntimeError(f"a reply begins with {bytes(head)!r}, not {self.head!r}")


def measure(binary, environment, peer, work):
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        path = str(pathlib.Path(folder) / "socket")
        server = servers.Server([binary, "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
                                 "--dir", folder], environment, path=path)
        rows = []
        try:
            writer = blocks.Writer(_Putter, path)
            for size in work.sizes:
                seed, target = blocks.seed_of(work.round, size), blocks.pages(work.length_of(size))
                writer.put(seed, size, len(target))
                get = _Getter(path, size, target)
                for window in WINDOWS:
                    blocks.timed(get, size, target, window, seed, rows, peer=peer)
            writer.close()
        finally:
            server.close()
        return rows
