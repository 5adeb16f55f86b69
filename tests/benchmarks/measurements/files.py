"""A large state to a file and back."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState
from tests.benchmarks.batches import SHAPES
from tests.benchmarks.measurements.snapshots import fill
from tests.benchmarks.workloads import recipe

TIMES = 5
"""How often a state is saved and loaded in one process."""

_sync = os.fsync
_synced = 0.0


def _timed_sync(file: int) -> None:
    global _synced
    began = time.perf_counter()
    _sync(file)
    _synced += time.perf_counter() - began


async def save_and_load(make: str, size: str, prefetch: int, folder: str) -> dict[str, float]:
    """Save as users do, with the disk's part (fsync) taken out of it, and load what is still in the page cache."""
    global _synced
    recipe_ = recipe(make, size)
    async with AsyncPrefetcher(recipe_.build(), n_batches_to_prefetch=prefetch) as loader:
        await anext(loader)
        await fill(loader)
        state = await loader.get_state()
    rows, columns = SHAPES[size]
    raw = len(state.buffer) * 2 * rows * columns * 8
    saving, syncing, loading = [], [], []
    os.fsync = _timed_sync
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "state"
        for _ in range(TIMES):
            _synced, began = 0.0, time.perf_counter()
            await state.save(path)
            saving.append(time.perf_counter() - began - _synced)
            syncing.append(_synced)
            began = time.perf_counter()
            loaded = await AsyncPrefetcherState.load(path, expect=recipe_.build())
            loading.append(time.perf_counter() - began)
        file = path.stat().st_size
    assert loaded == state, "not what was saved"
    save, load, sync = (statistics.median(times) for times in (saving, loading, syncing))
    return {
        "save_gbs": raw / save / 1e9,
        "load_gbs": raw / load / 1e9,
        "both_gbs": raw / (save + load) / 1e9,
        "fsync_ms": sync * 1e3,
        "overhead_percent": (file / raw - 1) * 100,
        "raw_mb": raw / 1e6,
    }
