"""spdl's ``iterate_in_subprocess``, by pickles through a queue."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spdl.pipeline import SharedMemorySegmentPool, iterate_in_subprocess

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(
    source: FilledState, prefetch: int, arena: SharedMemorySegmentPool | None = None
) -> Iterator[Iterator[Batch]]:
    """A forked process, and a queue of as many batches as are to be prefetched."""
    iterator = source.build()
    yield iter(iterate_in_subprocess(iterator.create_iter, buffer_size=prefetch, mp_context="fork", arena=arena))
