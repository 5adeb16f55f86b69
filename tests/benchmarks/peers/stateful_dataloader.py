"""torchdata's StatefulDataLoader, set up like torch's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torchdata.stateful_dataloader import StatefulDataLoader

from tests.benchmarks.batches import Batch
from tests.benchmarks.peers.torch_dataloader import Filled
from tests.benchmarks.workloads import FilledState


@contextmanager
def stream(source: FilledState, prefetch: int) -> Iterator[Iterator[Batch]]:
    """One worker, which also sends its state along, with every batch."""
    yield iter(StatefulDataLoader(Filled(source), batch_size=None, num_workers=1, prefetch_factor=prefetch))
