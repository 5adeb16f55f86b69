"""Rows that count batches: the throughput of all contenders, and what follows from the same kind of run."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.measure import Measurement
from tests.benchmarks.peers import PEERS
from tests.benchmarks.rows import DEFAULT, RAISED, WORKERS_RAISED, Goal, Group, Row, bare, stream


def throughput(id: str, size: str, *rows: Row, make: str = "plain") -> Group:
    """All contenders with batches of one size; ``rows`` are those that have goals."""
    reference = bare(size)
    seen = {"cpu_us": "CPU {:.1f} us"}

    def row(title: str, measurement: Measurement, allocator: str = DEFAULT, **more: Any) -> Row:
        return Row(title, measurement, "rate", "batches/s", allocator, reference, also=seen, **more)

    faults = {**seen, "faults": "{:.0f} page faults"}
    limits = (
        Row("bare for, plain program", reference, "rate", "batches/s", DEFAULT, also=faults),
        Row("bare for, plain program", bare(size, True), "rate", "batches/s", RAISED, reference, also=faults),
        Row(
            "bare for, library imported",
            stream("bare", size, make),
            "rate",
            "batches/s",
            DEFAULT,
            reference,
            also=faults,
        ),
        row(PEERS["warm"].title, stream("warm", size, make)),
    )
    keep: dict[str, Any] = {"peer_options": {"keep_arrays": True}, "label": "arrays kept"}
    peers = [row(PEERS[peer].title, stream(peer, size, make)) for peer in ("manager", "torch")]
    peers.append(row("torch DataLoader, arrays kept", stream("torch", size, make, **keep)))
    others = ("torchdata", "nodes", "nodes-process", "grain", "spdl", "spdl-pool")
    peers += [row(PEERS[peer].title, stream(peer, size, make)) for peer in others]
    peers.append(row(PEERS["spdl-pool"].title, stream("spdl-pool", size, make, raised=True), RAISED))
    unaided: dict[str, Any] = {"peer_options": {"worker_malloc": "default"}, "label": "allocator left alone"}
    own = (row("asyncprefetch", stream("asyncprefetch", size, make, **unaided)), *rows)
    return Group(id, f"Throughput, {size} a batch", "bare, plain program, default", (*limits, *peers, *own))


def held(size: str, title: str, goal: Goal | None, make: str = "plain", prefetch: int = 8) -> Row:
    """A throughput of the library's that has a goal."""
    measurement = stream("asyncprefetch", size, make, prefetch)
    also = {"cpu_us": "CPU {:.1f} us"}
    return Row(title, measurement, "rate", "batches/s", WORKERS_RAISED, bare(size), goal, also)


def consumer_cpu() -> Group:
    """From the same runs as the throughput."""
    entries = (
        ("0.5 MB: bare for, plain program", bare("0.5 MB"), DEFAULT, None),
        ("0.5 MB: torch DataLoader", stream("torch", "0.5 MB"), DEFAULT, None),
        ("0.5 MB: spdl + segment pool", stream("spdl-pool", "0.5 MB"), DEFAULT, None),
        ("0.5 MB: asyncprefetch", stream("asyncprefetch", "0.5 MB"), WORKERS_RAISED, 25),
        (
            "0.5 MB: asyncprefetch, in the slot",
            stream("asyncprefetch", "0.5 MB", "in_the_slot"),
            WORKERS_RAISED,
            25,
        ),
        (
            "2 KB: asyncprefetch, prefetch 64",
            stream("asyncprefetch", "2 KB", prefetch=64),
            WORKERS_RAISED,
            6,
        ),
    )
    rows = tuple(
        Row(
            title,
            measurement,
            "cpu_us",
            "us",
            allocator,
            goal=None if most is None else Goal(at_most=most),
            also={"thread_cpu_us": "its own thread {:.1f} us"},
        )
        for title, measurement, allocator, most in entries
    )
    return Group("cpu", "CPU time of the consuming process a batch", "", rows)


def tensors() -> Group:
    """Items with torch tensors in them."""
    goal = Goal(at_least=60_000)

    def row(peer: str, allocator: str = DEFAULT, goal: Goal | None = None) -> Row:
        measurement = stream(peer, "2 KB", "tensors", label="torch") if peer != "asyncprefetch" else ours_
        return Row(PEERS[peer].title, measurement, "rate", "batches/s", allocator, goal=goal)

    ours_ = stream("asyncprefetch", "2 KB", "tensors", label="torch")
    rows = (row("torch"), row("spdl"), row("asyncprefetch", WORKERS_RAISED, goal))
    return Group("tensors", "Torch tensors, 2 KB a batch", "", rows)


def overlap() -> Group:
    """Both ends busy for the same time."""
    spins: dict[str, Any] = {
        "consumer_spin": 0.005,
        "recipe_options": {"spin_seconds": 0.005},
        "label": "5 ms and 5 ms",
    }

    def row(peer: str, allocator: str = DEFAULT, goal: Goal | None = None) -> Row:
        return Row(PEERS[peer].title, stream(peer, "2 KB", **spins), "rate", "batches/s", allocator, goal=goal)

    rows = (row("bare"), row("torch"), row("spdl"), row("asyncprefetch", WORKERS_RAISED, Goal(at_least=0.97 * 200)))
    return Group("overlap", "Overlap: producer and consumer each spin 5 ms (ideal: 200 batches/s)", "", rows)


def workers() -> Group:
    """What a second worker gains, beside what a second process gains that has nothing to send."""
    work = {"operations": 50_000}

    def sharded(workers: int) -> Measurement:
        parameters = {"workers": workers, "shards": 2, **work}
        return Measurement(f"CPU-bound, {workers} workers", "throughput.sharded", parameters)

    def processes(workers: int) -> Measurement:
        return Measurement(f"CPU-bound, {workers} processes", "throughput.processes", {"workers": workers, **work})

    rows = (
        Row("the work alone, 1 process", processes(1), "rate", "batches/s"),
        Row("the work alone, 2 processes", processes(2), "rate", "batches/s", reference=processes(1)),
        Row("asyncprefetch, 1 worker", sharded(1), "rate", "batches/s", WORKERS_RAISED),
        Row(
            "asyncprefetch, 2 workers",
            sharded(2),
            "rate",
            "batches/s",
            WORKERS_RAISED,
            sharded(1),
            Goal(at_least=1.85, relative=True),
        ),
    )
    return Group("workers", "Workers: a CPU-bound producer of two shards", "one of the same", rows)
