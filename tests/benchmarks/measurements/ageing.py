"""Whether a loader that has delivered very much costs what it did at its beginning."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from asyncprefetch import AsyncPrefetcher
from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import recipe

WINDOWS = 20
"""Windows that are timed at either place; the median of them counts."""


async def old_and_young(make: str, size: str, prefetch: int, *, young: int, old: int, window: int) -> dict[str, float]:
    """Time a batch, and memory, behind ``young`` batches and behind ``old`` ones."""
    async with AsyncPrefetcher(recipe(make, size).build(), n_batches_to_prefetch=prefetch) as loader:
        await _take(loader, young)
        young_us, young_mb = await _look(loader, window), _resident(loader)
        await _take(loader, old - young - WINDOWS * window)
        old_us, old_mb = await _look(loader, window), _resident(loader)
    return {
        "young_us": young_us,
        "old_us": old_us,
        "slower_percent": (old_us / young_us - 1) * 100,
        "consumer_mb": old_mb[0] - young_mb[0],
        "worker_mb": old_mb[1] - young_mb[1],
        "young_consumer_mb": young_mb[0],
        "young_worker_mb": young_mb[1],
        "grown_mb": max(old - young for old, young in zip(old_mb, young_mb, strict=True)),
    }


async def _look(loader: AsyncPrefetcher[Batch], window: int) -> float:
    return statistics.median([await _take(loader, window) / window for _ in range(WINDOWS)]) * 1e6


async def _take(loader: AsyncPrefetcher[Batch], batches: int) -> float:
    taken, began = 0, time.perf_counter()
    async for _batch in loader:
        taken += 1
        if taken >= batches:
            break
    return time.perf_counter() - began


def _resident(loader: AsyncPrefetcher[Batch]) -> tuple[float, float]:
    """MB in memory, of the consumer and of its worker."""
    worker = loader.statistics().workers[0].pid
    return tuple(_resident_of(pid) for pid in (os.getpid(), worker))


def _resident_of(pid: int | None) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
