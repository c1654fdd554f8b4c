"""NIXL's UCX backend, host memory to host memory of another process. It stores nothing: both sides know the addresses."""
import os

import blocks

WINDOWS = (1, 64)
# What its UCX may use: everything (on one host that is the kernel's copy between processes), or TCP tuned as ours is.
LANES = {
    "shm": {},
    "tcp": {"UCX_TLS": "tcp", "UCX_NET_DEVICES": "lo", "UCX_TCP_TX_SEG_SIZE": "257k", "UCX_TCP_RX_SEG_SIZE": "257k",
            "UCX_TCP_SNDBUF": "4m", "UCX_TCP_RCVBUF": "4m"},
}


def _agent(name, lane):
    os.environ.update(LANES[lane], NIXL_LOG_LEVEL="ERROR", UCX_LOG_LEVEL="error", UCX_WARN_UNUSED_ENV_VARS="n")
    from nixl_cu12 import nixl_agent
    return nixl_agent(name)


def _tuples(memory, size):
    base = memory.ctypes.data
    return [(base + at, size, 0) for at in range(0, len(memory) // size * size, size)]


class _Owner:
    """put() fills the memory that readers read; its first call tells them how."""

    def __init__(self, lane, length):
        self.agent, self.memory = _agent("owner", lane), blocks.pages(length)
        self.registered = self.agent.register_memory([(self.memory.ctypes.data, length, 0, "")], mem_type="DRAM")

    def __call__(self, seed, length):
        self.memory[:length] = blocks.payload(seed, length)
        return self.agent.get_agent_metadata(), self.memory.ctypes.data


class _Getter:
    def __init__(self, agent, remote, remote_base, size, target):
        self.agent = agent
        theirs = [(remote_base + at, size, 0) for at in range(0, len(target) // size * size, size)]
        self.local = agent.prep_xfer_dlist("NIXL_INIT_AGENT", _tuples(target, size), mem_type="DRAM")
        self.remote = agent.prep_xfer_dlist(remote, theirs, mem_type="DRAM")

    def __call__(self, first, count):
        which = list(range(first, first + count))
        handle = self.agent.make_prepped_xfer("READ", self.local, which, self.remote, which)
        state = self.agent.transfer(handle)
        while state == "PROC":
            state = self.agent.check_xfer_state(handle)
        if state != "DONE":
            raise RuntimeError(f"a transfer ended as {state}")
        self.agent.release_xfer_handle(handle)


def measure(lane, peer, work):
    rows = []
    writer = blocks.Writer(_Owner, lane, work.length)
    agent, target, remote = _agent("reader", lane), blocks.pages(work.length), None
    registered = agent.register_memory([(target.ctypes.data, len(target), 0, "")], mem_type="DRAM")
    for size in work.sizes:
        seed, length = blocks.seed_of(work.round, size), work.length_of(size)
        metadata, base = writer.put(seed, length)
        remote = remote or agent.add_remote_agent(metadata)
        get = _Getter(agent, remote, base, size, target[:length])
        for window in WINDOWS:
            blocks.timed(get, size, target[:length], window, seed, rows, peer=peer)
    agent.remove_remote_agent(remote)
    agent.deregister_memory(registered)
    writer.close()
    return rows
