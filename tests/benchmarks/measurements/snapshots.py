"""What checkpoints cost: one of them, and many of them in a stream."""

from __future__ import annotations

import asyncio
import statistics
import time
from itertools import islice
from typing import Any

from asyncprefetch import AsyncPrefetcher
from tests.benchmarks.batches import Batch
from tests.benchmarks.workloads import FilledState, recipe

PAIRS = 5
"""Pairs of windows of a stream, at least."""


async def latency(
    make: str, size: str, prefetch: int, warm_up: float, seconds: float, **options: Any
) -> dict[str, float]:
    """``get_state()`` with a full buffer, from the call to the next batch in hand, again and again."""
    source = recipe(make, size, **options)
    times: list[float] = []
    held: list[int] = []
    async with AsyncPrefetcher(source.build(), n_batches_to_prefetch=prefetch) as loader:
        until = time.perf_counter() + warm_up + seconds
        while time.perf_counter() < until or len(times) < 3:
            await _take(loader, prefetch)
            await fill(loader)
            began = time.perf_counter()
            state = await loader.get_state()
            await anext(loader)
            times.append(time.perf_counter() - began)
            held.append(len(state.buffer))
    step = _step(source)
    middle = statistics.median(times)
    return {
        "ms": middle * 1e3,
        "over_step_ms": (middle - step) * 1e3,
        "max_ms": max(times) * 1e3,
        "step_ms": step * 1e3,
        "held": statistics.fmean(held),
        "calls": len(times),
    }


async def every(
    make: str, size: str, prefetch: int, *, every: int, warm_up: float, seconds: float, **options: Any
) -> dict[str, float]:
    """Windows of one stream by turns: with a checkpoint every so many batches, and with none.

    In one process, unlike contenders: what is asked is a difference of a few percent, and processes differ by more.
    """
    async with AsyncPrefetcher(recipe(make, size, **options).build(), n_batches_to_prefetch=prefetch) as loader:
        await anext(loader)
        pace, until = 1.0, time.perf_counter() + warm_up
        while time.perf_counter() < until:
            pace = 10 / await _take(loader, 10)
        batches = every * max(1, round(pace * seconds / PAIRS / every))
        pairs: list[tuple[float, float]] = []
        until = time.perf_counter() + 2 * seconds
        while time.perf_counter() < until or len(pairs) < PAIRS:
            order = (0, every) if len(pairs) % 2 else (every, 0)
            times = {interval: await _take(loader, batches, interval) for interval in order}
            pairs.append((times[0], times[every]))
    return {
        "relative": statistics.median(never / often for never, often in pairs),
        "rate": batches / statistics.median(often for _, often in pairs),
        "rate_never": batches / statistics.median(never for never, _ in pairs),
        "batches": batches,
        "pairs": len(pairs),
    }


async def fill(loader: AsyncPrefetcher[Batch]) -> None:
    """Wait until all that was asked of the worker is made."""
    async with asyncio.timeout(30):
        while loader.statistics().requested or not loader.statistics().buffered:
            await asyncio.sleep(0.001)


async def _take(loader: AsyncPrefetcher[Batch], batches: int, every: int = 0) -> float:
    """The seconds that so many batches take. Checkpoints lie in the middle of what they are the share of."""
    taken, began = 0, time.perf_counter()
    async for _batch in loader:
        taken += 1
        if every and taken % every == every // 2:
            await loader.get_state()
        if taken >= batches:
            break
    return time.perf_counter() - began


def _step(source: FilledState) -> float:
    """The seconds that the producer takes for a batch, without a loader."""
    times = []
    began = time.perf_counter()
    for _batch in islice(source.build().create_iter(), 50):
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return statistics.median(times)
