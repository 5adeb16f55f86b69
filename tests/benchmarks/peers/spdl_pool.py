"""spdl's ``iterate_in_subprocess`` with its pool of shared memory segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from math import prod

from spdl.pipeline import SharedMemorySegmentPool

from tests.benchmarks.batches import Batch
from tests.benchmarks.peers import spdl_subprocess
from tests.benchmarks.workloads import FilledState

HELD = 2
"""Batches beside those in the queue: one that the consumer holds, one that is being made."""


def stream(source: FilledState, prefetch: int) -> AbstractContextManager[Iterator[Batch]]:
    """A segment a batch, with room for both arrays and what the pool aligns them by."""
    size = 2 * prod(source.shape) * 8 + 4096
    return spdl_subprocess.stream(source, prefetch, SharedMemorySegmentPool(size, prefetch + HELD))
