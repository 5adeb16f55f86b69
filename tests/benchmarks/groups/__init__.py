"""The rows of the table, in its order."""

from __future__ import annotations

from tests.benchmarks.batches import MANY
from tests.benchmarks.groups.costs import age, checkpoints, file, first_batch, get_state, lag
from tests.benchmarks.groups.pipelines import place, text
from tests.benchmarks.groups.throughput import consumer_cpu, held, overlap, tensors, throughput, workers
from tests.benchmarks.rows import Goal

GROUPS = (
    throughput(
        "2kb",
        "2 KB",
        held("2 KB", "asyncprefetch", Goal(at_least=80_000)),
        held("2 KB", "asyncprefetch, in the slot", None, "in_the_slot"),
        held("2 KB", "asyncprefetch, prefetch 64", Goal(at_least=140_000), prefetch=64),
    ),
    throughput(
        "0.5mb",
        "0.5 MB",
        held("0.5 MB", "asyncprefetch", Goal(at_least=0.95, relative=True)),
        held("0.5 MB", "asyncprefetch, in the slot", Goal(at_least=1.6, relative=True), "in_the_slot"),
    ),
    throughput(
        "9.6mb",
        "9.6 MB",
        held("9.6 MB", "asyncprefetch", Goal(at_least=0.85, relative=True)),
        held("9.6 MB", "asyncprefetch, in the slot", Goal(at_least=1.8, relative=True), "in_the_slot"),
    ),
    throughput("many", MANY, held(MANY, "asyncprefetch", None, "many"), make="many"),
    consumer_cpu(),
    tensors(),
    overlap(),
    workers(),
    lag(),
    get_state(),
    checkpoints(),
    first_batch(),
    file(),
    age(),
    text(),
    place(),
)
