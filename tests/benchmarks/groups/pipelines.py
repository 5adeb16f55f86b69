"""Rows of the pipeline that makes a language model's batches out of files."""

from __future__ import annotations

from tests.benchmarks.measure import Measurement
from tests.benchmarks.rows import DEFAULT, WORKERS_RAISED, Goal, Group, Row

KINDS = (
    ("bytes", 1024, "8 x 1,024 bytes", Goal(at_least=100)),
    ("bytes", 4096, "8 x 4,096 bytes", Goal(at_least=100)),
    ("sequences", 4096, "8 x 4,096 bytes, shuffled sequences", None),
    ("patches", 1024, "8 x 1,024 patches between spaces, shuffled sequences", Goal(at_least=60)),
)


def text() -> Group:
    """From the file to the batch in the consumer's hands."""

    def measured(kind: str, length: int, loader: bool) -> Measurement:
        how = "1 worker" if loader else "no loader"
        parameters = {"kind": kind, "length": length, "loader": loader}
        return Measurement(f"text: {kind}, {length}, {how}", "pipelines.throughput", parameters, writes=True, limit=120)

    also = {"rate": "{:,.0f} batches/s"}
    rows = [
        row
        for kind, length, title, goal in KINDS
        for row in (
            Row(f"{title}: the iterators alone", measured(kind, length, False), "mb", "MB/s", DEFAULT, also=also),
            Row(
                title,
                measured(kind, length, True),
                "mb",
                "MB/s",
                WORKERS_RAISED,
                measured(kind, length, False),
                goal,
                also,
            ),
        )
    ]
    return Group("text", "Text of the standard library, from .jsonl to batches, 1 worker", "no loader", tuple(rows))


def place() -> Group:
    """What it takes to say where the pipeline is, and to go back there."""
    state = Measurement(
        "pipeline: state",
        "pipelines.checkpoint",
        {"sources": 8, "states": 1000},
        {"states": 20},
        timed=False,
        writes=True,
        limit=120,
    )
    deep = Measurement(
        "pipeline: restored",
        "pipelines.restoring",
        {"kind": "patches", "gigabytes": 10},
        timed=False,
        writes=True,
        limit=120,
    )
    read = {"far_mb": "{:.1f} MB read", "near_ms": "near the file's begin {:.1f} ms", "near_mb": "{:.1f} MB"}
    rows = (
        Row("get_state()", state, "ms", "ms", goal=Goal(at_most=1), also={"max_ms": "max {:.2f}"}),
        Row("its size as JSON", state, "kb", "kB", goal=Goal(at_most=64)),
        Row("restored behind 10 GB of a file, to the first batch", deep, "far_ms", "ms", also=read),
    )
    return Group("place", "A state of that pipeline, 8 sources", "", rows)
