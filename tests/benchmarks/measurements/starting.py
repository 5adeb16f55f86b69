"""The wait for the first batch: of a fresh loader, and of one that is restored."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState
from tests.benchmarks.batches import Batch
from tests.benchmarks.measurements.snapshots import fill
from tests.benchmarks.workloads import recipe


async def fresh(make: str, size: str, prefetch: int) -> dict[str, float]:
    """The first loader of a program that has imported what it needs, and, once that is closed, the second."""
    return {name: await _first(make, size, prefetch) for name in ("first_ms", "second_ms")}


async def _first(make: str, size: str, prefetch: int) -> float:
    began = time.perf_counter()
    async with AsyncPrefetcher(recipe(make, size).build(), n_batches_to_prefetch=prefetch) as loader:
        await anext(loader)
        return (time.perf_counter() - began) * 1e3


async def restored(make: str, size: str, prefetch: int) -> dict[str, float]:
    """The first loader of a program, built from the file that another program left."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state"
        spec = {
            "run": "starting.leave",
            "parameters": {"make": make, "size": size, "prefetch": prefetch, "path": str(path)},
        }
        command = [sys.executable, "-m", "tests.benchmarks.child", json.dumps(spec)]
        await asyncio.to_thread(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        state = await AsyncPrefetcherState.load(path)
        loaded = time.perf_counter()
        async with state.build() as loader:
            batch: Batch = await anext(loader)
            got = time.perf_counter()
        assert batch["x"].item(0) == 1, "not the batch behind the checkpoint"
        return {"restored_ms": (got - loaded) * 1e3, "load_ms": (loaded - began) * 1e3, "buffered": len(state.buffer)}


async def leave(make: str, size: str, prefetch: int, path: str) -> dict[str, float]:
    """The other program: take one batch, wait for as many as there may be, and save."""
    async with AsyncPrefetcher(recipe(make, size).build(), n_batches_to_prefetch=prefetch) as loader:
        await anext(loader)
        await fill(loader)
        state = await loader.get_state()
    await state.save(path)
    return {"buffered": len(state.buffer)}
