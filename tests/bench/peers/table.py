"""Rounds to medians, ratios and the one table."""
import collections
import statistics

NAMES = {64 << 10: "64 KiB", 256 << 10: "256 KiB", 1 << 20: "1 MiB", 2 << 20: "2 MiB", 4 << 20: "4 MiB", "cold": "cold"}
SECTIONS = [
    ("one host", ("stemcache local", "stemcache get", "stemcache remote-shm", "redis", "valkey", "mooncake shm", "nixl shm", "unix socket",
                  "limit local", "limit remote-shm")),
    ("TCP over loopback", ("stemcache remote-tcp", "stemcache transport", "mooncake tcp", "nixl tcp", "ucx", "tcp socket", "limit remote-tcp")),
    ("TCP over two network namespaces joined by veth", ("veth",)),
]
# UCX's best is the fastest of its ways, of the version that we link: rows "ucx get", not "ucx 1.22.0 get". Warm, with blocks
# of the same size, or cold, one message as long as the working set.
WARM, COLD, VETH_WARM, VETH_COLD = "ucx's best, warm", "ucx's best, cold", "veth ucx's best, warm", "veth ucx's best, cold"
# (ours, its window, peer's rows of which the fastest counts, the bar)
BARS = [
    ("stemcache get, header", 64, [("redis", 1), ("redis", 64)], 3),
    ("stemcache get, header", 64, [("valkey", 1), ("valkey", 64)], 3),
    ("stemcache get, header", 64, [("mooncake shm", 64)], 1.5),
    ("stemcache get, header", 1, [("redis", 1)], 3),
    ("stemcache get, header", 1, [("valkey", 1)], 3),
    ("stemcache get, header", 1, [("mooncake shm", 1)], 3),
    ("stemcache get, header", 1, [("nixl shm", 1)], 1.5),
    ("stemcache get, full", 64, [("mooncake shm", 64)], None),
    ("stemcache get, full", 1, [("mooncake shm", 1)], None),
    ("stemcache local, header", 64, [("mooncake shm", 64)], None),
    ("stemcache local, header", 64, [("mooncake shm", 1)], None),
    ("stemcache remote-shm, header", 64, [("nixl shm", 64)], None),
    ("stemcache remote-tcp, header", 64, [("mooncake tcp", 16), ("mooncake tcp", 64)], 1.5),
    ("stemcache remote-tcp, header", 64, [("nixl tcp", 1)], 1.5),
    ("stemcache transport", 16, COLD, 0.85),
    ("stemcache transport", 16, WARM, None),
    ("stemcache remote-tcp, header", 64, COLD, 0.85),
    ("stemcache remote-tcp, full", 64, COLD, 0.8),
    ("stemcache remote-tcp, header", 64, WARM, 0.85),
    ("stemcache remote-tcp, full", 64, WARM, 0.8),
    ("stemcache remote-tcp, header", 64, [("tcp socket", 64)], None),
    ("veth stemcache, header", 64, VETH_COLD, 0.85),
    ("veth stemcache, header", 64, VETH_WARM, 0.85),
    ("veth stemcache, header", 64, [("veth tcp socket", 64)], None),
]


def name_of(size):
    return NAMES.get(size, f"{size} B")


def _is_ucx(peer, best):
    prefix = best.split("'")[0] + " "
    return peer.startswith(prefix) and not peer[len(prefix)].isdigit()


def _medians(rounds):
    values = collections.defaultdict(list)
    for one in rounds:
        for row in one["rows"]:
            values[row["peer"], row["window"], row["size"]].append(row)
    medians = []
    for (peer, window, size), rows in values.items():
        median = {"peer": peer, "window": window, "size": size, "rounds": len(rows)}
        for figure in ("rate", "p50_us", "cpu_seconds_per_gb"):
            known = [row[figure] for row in rows if row.get(figure) is not None]
            if known:
                median[figure] = statistics.median(known)
        medians.append(median)
    return medians


def _candidates(peers, size, medians):
    """The rows of which the fastest is meant; UCX's cold ones stand for every size."""
    if isinstance(peers, str):
        wanted = "cold" if peers in (COLD, VETH_COLD) else size
        return [row for row in medians if _is_ucx(row["peer"], peers) and row["size"] == wanted]
    return [row for row in medians if (row["peer"], row["window"]) in peers and row["size"] == size]


def _ratio(rounds, ours, theirs):
    """Median of the rounds' own ratios."""
    ratios = []
    for one in rounds:
        rates = {(row["peer"], row["window"], row["size"]): row["rate"] for row in one["rows"]}
        mine, peer = rates.get(ours), rates.get((theirs["peer"], theirs["window"], theirs["size"]))
        if mine and peer:
            ratios.append(mine / peer)
    return statistics.median(ratios) if ratios else None


def _ratios(rounds, medians):
    sizes = sorted({row["size"] for row in medians if row["size"] != "cold"})
    result = []
    for ours, window, peers, bar in BARS:
        row = {"ours": ours, "window": window, "bar": bar, "ratios": {},
               "peer": peers if isinstance(peers, str) else " or ".join(f"{name}, W{w}" for name, w in peers)}
        for size in sizes:
            found = _candidates(peers, size, medians)
            if found:
                best = max(found, key=lambda one: one["rate"])
                row["ratios"][str(size)] = _ratio(rounds, (ours, window, size), best)
        result.append(row)
    return result


def summary(rounds):
    medians = _medians(rounds)
    errors = {name: error for one in rounds for name, error in one["errors"].items()}
    return {"medians": medians, "ratios": _ratios(rounds, medians), "errors": errors}


def _line(cells):
    return "| " + " | ".join(cells) + " |"


def _header(first, sizes):
    return [_line([first, *map(name_of, sizes)]), _line(["---", *["---:"] * len(sizes)])]


def _sections(document, sizes):
    medians = document["medians"]
    for title, prefixes in SECTIONS:
        chosen = [row for prefix in prefixes for row in medians if row["peer"].startswith(prefix)]
        names = list(dict.fromkeys((row["peer"], row["window"]) for row in chosen))
        if not names:
            continue
        shown = [*sizes, "cold"] if any(row["size"] == "cold" for row in chosen) else sizes
        yield from ["", *_header(f"{title}, GB/s", shown)]
        for peer, window in names:
            rates = {row["size"]: row["rate"] for row in chosen if (row["peer"], row["window"]) == (peer, window)}
            yield _line([f"{peer}, W{window}" if window else peer,
                         *(f"{rates[size] / 1e9:.2f}" if size in rates else "" for size in shown)])


def to_text(document):
    sizes = sorted({row["size"] for row in document["medians"] if row["size"] != "cold"})
    lines = [*_sections(document, sizes), "", *_header("ours / peer (bar)", sizes)]
    for row in document["ratios"]:
        cells = []
        for size in sizes:
            ratio = row["ratios"].get(str(size))
            below = ratio is not None and row["bar"] is not None and ratio < row["bar"]
            cells.append("" if ratio is None else f"{ratio:.2f}" + ("!" if below else ""))
        if any(cells):
            bar = "" if row["bar"] is None else f" (>= {row['bar']})"
            lines.append(_line([f"{row['ours']}, W{row['window']} / {row['peer']}{bar}", *cells]))
    counts = [row["rounds"] for row in document["medians"]] or [0]
    lines += ["", f"! below the bar, which is asked for at 2 MiB in stems of 64; elsewhere: faster than every peer. "
              f"Medians of {min(counts)} to {max(counts)} rounds."]
    lines += [f"would not start: {name}: {error}" for name, error in document["errors"].items()]
    return "\n".join(lines)
