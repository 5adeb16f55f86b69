"""Rows of what else a loader costs: the loop's time, checkpoints, the start, and age."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.measure import Measurement
from tests.benchmarks.rows import WORKERS_RAISED, Goal, Group, Row, ours, stream


def lag() -> Group:
    """A ticker's view of the loop."""
    also = {"p50_ms": "p50 {:.2f}", "max_ms": "max {:.2f}", "rate": "at {:,.0f} batches/s"}
    streams = [("2 KB", "plain", 8), ("2 KB", "plain", 64), *((s, "plain", 8) for s in ("0.5 MB", "9.6 MB"))]
    streams.append(("0.5 MB", "in_the_slot", 8))
    idle = Measurement("idle loop", "lag.idle")
    rows = [Row("idle loop", idle, "p99_ms", "ms", also={key: also[key] for key in ("p50_ms", "max_ms")})]
    for size, make, prefetch in streams:
        title = f"{size}, {'in the slot, ' if make == 'in_the_slot' else ''}prefetch {prefetch}"
        measurement = ours(f"lag: {title}", "lag.streaming", size, make, prefetch)
        rows.append(Row(title, measurement, "p99_ms", "ms", WORKERS_RAISED, goal=Goal(at_most=2), also=also))
    return Group("lag", "Loop lag while streaming at full speed, p99 of a 1 ms ticker", "", tuple(rows))


def get_state() -> Group:
    """A checkpoint's wait."""
    also = {"ms": "{:.2f} in all", "step_ms": "step {:.2f}", "max_ms": "max {:.2f}", "held": "{:.1f} batches in it"}
    goal = Goal(at_most=4)
    name = "get_state, 0.5 MB"
    fast, slow = (ours(f"{name}, {n} ms", "snapshots.latency", "0.5 MB", spin_seconds=n / 1000) for n in (0, 5))
    rows = (
        Row("producer at full speed", fast, "over_step_ms", "ms", WORKERS_RAISED, goal=goal, also=also),
        Row("producer of 5 ms", slow, "over_step_ms", "ms", WORKERS_RAISED, goal=goal, also=also),
    )
    title = "get_state() with 8 x 0.5 MB in the buffer to the next batch in hand, less the producer's step"
    return Group("get-state", title, "", rows)


def checkpoints() -> Group:
    """Many checkpoints, and none."""

    def row(title: str, least: float, size: str, every: int, **options: Any) -> Row:
        name, quick = f"checkpoints: {title}", {"every": 20}
        measurement = ours(name, "snapshots.every", size, every=every, limit=120, quick=quick, **options)
        also = {"rate": "{:,.0f}", "rate_never": "of {:,.0f} batches/s"}
        return Row(title, measurement, "relative", "x never", WORKERS_RAISED, goal=Goal(at_least=least), also=also)

    heavy = stream("asyncprefetch", "0.5 MB", recipe_options={"state_seconds": 0.005}, label="dear get_state")
    plain = stream("asyncprefetch", "0.5 MB")
    rows = (
        row("0.5 MB, every 1,000", 0.97, "0.5 MB", 1000),
        row("2 KB, every 1,000", 0.97, "2 KB", 1000),
        row("0.5 MB, producer of 5 ms, every 100", 0.99, "0.5 MB", 100, spin_seconds=0.005),
        Row("none, but get_state() would take 5 ms", heavy, "rate", "batches/s", WORKERS_RAISED, plain),
    )
    return Group("checkpoints", "Throughput with checkpoints", "a cheap get_state()", rows)


def first_batch() -> Group:
    """The wait at the start."""
    fresh = ours("first batch, fresh", "starting.fresh", "0.5 MB", timed=False)
    restored = ours("first batch, restored", "starting.restored", "0.5 MB", timed=False)
    goal = Goal(at_most=350)
    also = {"load_ms": "behind {:.1f} for reading the file", "buffered": "{:.0f} batches in it"}
    rows = (
        Row("fresh loader, the program's first", fresh, "first_ms", "ms", WORKERS_RAISED, goal=goal),
        Row("fresh loader, the program's second", fresh, "second_ms", "ms", WORKERS_RAISED, goal=goal),
        Row("restored loader", restored, "restored_ms", "ms", WORKERS_RAISED, goal=Goal(at_most=15), also=also),
    )
    return Group("first-batch", "First batch, from making the loader, default start method", "", rows)


def file() -> Group:
    """A state of 64 MiB on disk."""
    saved = ours("file", "files.save_and_load", "8 MiB", timed=False, writes=True, quick={"size": "0.5 MB"})
    disk = {"fsync_ms": "fsync {:.0f} ms", "raw_mb": "{:.0f} MB of arrays"}
    rows = (
        Row("save, without fsync", saved, "save_gbs", "GB/s", also=disk),
        Row("load", saved, "load_gbs", "GB/s"),
        Row("save and load, one after the other", saved, "both_gbs", "GB/s", goal=Goal(at_least=0.5)),
        Row("file beyond the raw bytes", saved, "overhead_percent", "%", goal=Goal(at_most=1)),
    )
    return Group("file", "A state of 64 MiB", "", rows)


def age() -> Group:
    """Nothing may grow."""
    old = ours(
        "a million batches",
        "ageing.old_and_young",
        "2 KB",
        timed=False,
        limit=1800,
        young=1000,
        old=1_000_000,
        window=2000,
        quick={"young": 100, "old": 1000, "window": 10},
    )
    times = {"young_us": "{:.2f} us", "old_us": "to {:.2f} us"}
    memory = {"consumer_mb": "consumer {:+.1f}", "worker_mb": "worker {:+.1f}"}
    rows = (
        Row("time a batch", old, "slower_percent", "%", WORKERS_RAISED, goal=Goal(at_most=5), also=times),
        Row("memory of a process", old, "grown_mb", "MB", WORKERS_RAISED, goal=Goal(at_most=5), also=memory),
    )
    return Group("age", "Growth from batch 1,000 to batch 1,000,000, 2 KB", "", rows)
