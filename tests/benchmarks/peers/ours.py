"""asyncprefetch with one worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal

from asyncprefetch import AsyncPrefetcher, ProcessWorkers
from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState


def stream(
    source: FilledState, prefetch: int, worker_malloc: Literal["raised", "default"] | None = None
) -> AbstractAsyncContextManager[AsyncIterator[Batch]]:
    """The loader. ``worker_malloc`` is what its workers are told of the allocator; ``None`` leaves it to the library."""
    options: dict[str, Any] = {}
    if worker_malloc is not None:
        options["workers"] = ProcessWorkers(malloc=worker_malloc)
    return AsyncPrefetcher(source.build(), n_batches_to_prefetch=prefetch, **options)
