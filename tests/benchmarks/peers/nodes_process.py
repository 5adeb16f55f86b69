"""torchdata's Prefetcher node behind its ParallelMapper: the way in which nodes run in another process.

Only a function can run there, so the source is the batches' numbers, and the function makes the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count

from torchdata.nodes import IterableWrapper, Loader, ParallelMapper, Prefetcher

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """One worker process. It may have one batch under way a worker and no more; the rest waits in the prefetcher."""
    numbers = IterableWrapper(count())
    make = partial(source.make, source.shape)
    batches = ParallelMapper(numbers, make, num_workers=1, method="process")
    yield iter(Loader(Prefetcher(batches, prefetch_factor=prefetch)))
