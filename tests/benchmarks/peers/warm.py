"""Another limit: memory that is there, filled again and again; what writing costs when nothing is allocated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle

import numpy as np

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """Two batches by turns, for the consumer holds one while the next is made; nothing is prefetched."""
    yield _fill(source.shape)


def _fill(shape: tuple[int, int]) -> Iterator[Batch]:
    batches = [{"x": np.zeros(shape, np.int64), "y": np.zeros(shape, np.int64)} for _ in range(2)]
    for number, batch in zip(count(), cycle(batches), strict=False):
        batch["x"].fill(number)
        batch["y"].fill(number)
        yield batch
