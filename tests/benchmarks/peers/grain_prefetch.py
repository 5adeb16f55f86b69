"""grain's ``mp_prefetch`` with one worker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import grain

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """Batches made from their numbers, without the reading threads, which grain advises against for data in memory."""
    numbers = grain.MapDataset.range(sys.maxsize)
    made = numbers.map(partial(source.make, source.shape))
    batches = made.to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    options = grain.MultiprocessingOptions(num_workers=1, per_worker_buffer_size=prefetch)
    with closing(iter(batches.mp_prefetch(options))) as iterator:
        yield iterator
