"""The work that every peer does: one process puts blocks, another gets each into its own place of the caller's buffer,
and after the clock has stopped every byte is compared."""
import mmap
import multiprocessing
import time

import numpy

WARM_BLOCKS = 8  # got before the clock starts: connections, first touches of a server's code


def payload(seed, length):
    """Bytes that another process makes again from the same seed."""
    words = numpy.random.Generator(numpy.random.SFC64(seed)).integers(0, 1 << 64, length // 8, numpy.uint64)
    return words.view(numpy.uint8)


def pages(length):
    """Memory whose pages are there: 4 KiB ones, as an engine's plain buffer has."""
    memory = numpy.frombuffer(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), numpy.uint8)
    memory[:] = 0
    return memory


def seed_of(round_number, size):
    return round_number * 1_000_003 + size


class Mismatch(Exception):
    pass


def timed(get, size, target, window, seed, rows, **row):
    """Gets all blocks of target, window at a time, by get(first block, blocks); appends a row."""
    count = len(target) // size
    target[:] = 0
    get(0, min(window, WARM_BLOCKS))
    target[:] = 0
    took = []
    for first in range(0, count, window):
        begin = time.perf_counter()
        get(first, min(window, count - first))
        took.append(time.perf_counter() - begin)
    expected = payload(seed, len(target))
    if not numpy.array_equal(target, expected):
        bad = int(numpy.flatnonzero(target != expected)[0])
        raise Mismatch(f"block {bad // size} of {size} bytes, window {window}: byte {bad % size} is wrong")
    rows.append({**row, "size": size, "window": window, "rate": count * size / sum(took),
                 "p50_us": sorted(took)[len(took) // 2] * 1e6})


def _serve(make, arguments, pipe):
    try:
        put = make(*arguments)
        pipe.send(None)
    except Exception as error:  # whatever a peer's library throws belongs into the table
        pipe.send(f"{type(error).__name__}: {error}")
        return
    while True:
        message = pipe.recv()
        if message is None:
            return
        try:
            pipe.send(("done", put(*message)))
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}"))


class Writer:
    """Another process with a put(...) of its own, made there by make(*arguments)."""

    def __init__(self, make, *arguments):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(make, arguments, theirs), daemon=True)
        self.process.start()
        failed = self.pipe.recv()
        if failed:
            raise RuntimeError(failed)

    def put(self, *what):
        self.pipe.send(what)
        outcome, value = self.pipe.recv()
        if outcome == "failed":
            raise RuntimeError(value)
        return value

    def close(self):
        self.pipe.send(None)
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
