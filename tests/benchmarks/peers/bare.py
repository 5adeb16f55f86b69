"""The limit: the iterator itself, in a loop, with no process in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """The iterator; nothing is prefetched."""
    yield source.build().create_iter()
