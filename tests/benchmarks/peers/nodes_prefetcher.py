"""torchdata's Prefetcher node, which runs the iterator in a thread of the same process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchdata.nodes import IterableWrapper, Loader, Prefetcher

from tests.benchmarks.batches import Batch
from tests.benchmarks.peers.torch_dataloader import Filled
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """The iterator as a node, and the prefetching thread behind it."""
    yield iter(Loader(Prefetcher(IterableWrapper(Filled(source)), prefetch_factor=prefetch)))
