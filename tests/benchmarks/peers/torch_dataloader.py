"""torch's DataLoader with one worker, over an iterable dataset that makes whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.utils.data import DataLoader, IterableDataset

from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


class Filled(IterableDataset[Batch]):
    """A recipe as a dataset."""

    def __init__(self, source: FilledState) -> None:
        self.source = source

    def __iter__(self) -> Iterator[Batch]:
        return self.source.build().create_iter()


@contextmanager
def stream(source: FilledState, prefetch: int, keep_arrays: bool = False) -> Iterator[Iterator[Batch]]:
    """Whole batches, so that nothing is collated; which by default still makes tensors of the arrays, in the worker."""
    collate = _as_it_is if keep_arrays else None
    yield iter(DataLoader(Filled(source), batch_size=None, num_workers=1, prefetch_factor=prefetch, collate_fn=collate))


def _as_it_is(batch: Batch) -> Batch:
    return batch
