"""Mooncake Store of PyPI's wheel without CUDA: a master, an owner of memory, and a reader that is another process.

tcp: the writer owns the segment, the reader gets over the TCP transport into memory that it registered.
shm: mooncake_client owns the segment; writer and reader are its `setup_dummy` clients, which it copies for."""
import ctypes
import importlib.util
import os
import pathlib

import numpy

import blocks
import servers

TCP_WINDOWS = (1, 16, 64)
SHM_WINDOWS = (1, 64)
LOCAL_BUFFER_BYTES = 64 << 20
QUIET = {"GLOG_minloglevel": "3", "MC_LOG_LEVEL": "ERROR", "MC_STORE_CLIENT_METRIC": "0"}


def _folder():
    return pathlib.Path(importlib.util.find_spec("mooncake").submodule_search_locations[0])


def _store():
    os.environ.update(QUIET)
    from mooncake.store import MooncakeDistributedStore
    return MooncakeDistributedStore()


def _check(results, want, what):
    wrong = [result for result in results if result != want]
    if wrong:
        raise RuntimeError(f"{what}: {len(wrong)} of {len(results)} answers are {wrong[0]}, not {want}")


def _keys(seed, first, count):
    return [f"{seed}:{index}" for index in range(first, first + count)]


def _tcp_store(master, segment_bytes):
    """A member of the store. Its segment is where puts may land."""
    store = _store()
    status = store.setup("127.0.0.1", "P2PHANDSHAKE", segment_bytes, LOCAL_BUFFER_BYTES, "tcp", "", f"127.0.0.1:{master}")
    if status != 0:
        raise RuntimeError(f"setup: {status}")
    return store


def _registered(store, memory):
    if store.register_buffer(memory.ctypes.data, len(memory)) != 0:
        raise RuntimeError("register_buffer failed")
    return memory


def _pool(store, length):
    """Memory of a dummy client that mooncake_client can reach."""
    address = store.alloc_from_mem_pool(length)
    if not address:
        raise RuntimeError(f"alloc_from_mem_pool: no {length} bytes")
    if store.register_buffer(address, length) != 0:
        raise RuntimeError("register_buffer failed")
    return numpy.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(address))


def _dummy(client, length):
    store = _store()
    status = store.setup_dummy(length, LOCAL_BUFFER_BYTES, f"127.0.0.1:{client}")
    if status != 0:
        raise RuntimeError(f"setup_dummy: {status}")
    return store


class _Putter:
    def __init__(self, kind, port, segment_bytes, length):
        if kind == "tcp":
            self.store = _tcp_store(port, segment_bytes)
            self.memory = _registered(self.store, blocks.pages(length))
        else:
            self.store = _dummy(port, length)
            self.memory = _pool(self.store, length)

    def __call__(self, seed, size, length):
        self.store.remove_all(True)
        self.memory[:length] = blocks.payload(seed, length)
        count, base = length // size, self.memory.ctypes.data
        places = [base + index * size for index in range(count)]
        _check(self.store.batch_put_from(_keys(seed, 0, count), places, [size] * count), 0, "batch_put_from")


class _Getter:
    def __init__(self, store, seed, size, target):
        self.store, self.size = store, size
        self.keys = _keys(seed, 0, len(target) // size)
        self.places = [target.ctypes.data + index * size for index in range(len(self.keys))]

    def __call__(self, first, count):
        if count == 1:
            _check([self.store.get_into(self.keys[first], self.places[first], self.size)], self.size, "get_into")
            return
        end = first + count
        got = self.store.batch_get_into(self.keys[first:end], self.places[first:end], [self.size] * count)
        _check(got, self.size, "batch_get_into")


def _read(store, target, peer, windows, writer, work):
    rows = []
    for size in work.sizes:
        seed, length = blocks.seed_of(work.round, size), work.length_of(size)
        writer.put(seed, size, length)
        get = _Getter(store, seed, size, target[:length])
        for window in windows:
            blocks.timed(get, size, target[:length], window, seed, rows, peer=peer)
    return rows


def measure(kind, peer, work):
    environment = dict(os.environ, **QUIET)
    segment_bytes = 3 * work.length  # blocks of the size before may be freed late
    port = servers.free_port()
    running = [servers.Server([_folder() / "mooncake_master", f"--rpc_port={port}", "--rpc_address=127.0.0.1",
                               f"--metrics_port={servers.free_port()}", "--metrics_host=127.0.0.1"], environment, port=port)]
    try:
        if kind == "shm":
            client = servers.free_port()
            running.append(servers.Server(
                [_folder() / "mooncake_client", "--host=127.0.0.1", f"--port={client}", "--protocol=tcp",
                 f"--master_server_address=127.0.0.1:{port}", "--metadata_server=P2PHANDSHAKE",
                 f"--global_segment_size={segment_bytes}"], environment, port=client))
            writer = blocks.Writer(_Putter, kind, client, 0, work.length)
            store = _dummy(client, work.length)
            target, windows = _pool(store, work.length), SHM_WINDOWS
        else:
            writer = blocks.Writer(_Putter, kind, port, segment_bytes, work.length)
            store = _tcp_store(port, 0)
            target, windows = _registered(store, blocks.pages(work.length)), TCP_WINDOWS
        rows = _read(store, target, peer, windows, writer, work)
        writer.close()
        return rows
    finally:
        for server in reversed(running):
            server.close()
