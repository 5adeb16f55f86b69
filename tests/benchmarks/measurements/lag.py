"""How late other tasks of the loop get their turn while batches stream."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from asyncprefetch import AsyncPrefetcher
from tests.benchmarks.measurements.consumer import Consumer, consume
from tests.benchmarks.workloads import recipe

INTERVAL = 0.001
"""Seconds between two ticks."""


async def streaming(make: str, size: str, prefetch: int, warm_up: float, seconds: float) -> dict[str, float]:
    """A ticker beside a consumer at full speed."""
    lags: list[tuple[float, float]] = []
    ticker = asyncio.create_task(_tick(lags))
    consumer = Consumer(warm_up, seconds)
    await consume(AsyncPrefetcher(recipe(make, size).build(), n_batches_to_prefetch=prefetch), consumer)
    ended = consumer.ended_at
    ticker.cancel()
    return {"rate": consumer.figures()["rate"], **_summary([lag for at, lag in lags if ended - seconds <= at <= ended])}


async def idle(warm_up: float, seconds: float) -> dict[str, float]:
    """A ticker alone: what timers and the machine do by themselves."""
    lags: list[tuple[float, float]] = []
    ticker = asyncio.create_task(_tick(lags))
    await asyncio.sleep(warm_up + seconds)
    ticker.cancel()
    return _summary([lag for at, lag in lags if at >= lags[-1][0] - seconds])


async def _tick(lags: list[tuple[float, float]]) -> None:
    while True:
        due = time.perf_counter() + INTERVAL
        await asyncio.sleep(INTERVAL)
        now = time.perf_counter()
        lags.append((now, now - due))


def _summary(lags: list[float]) -> dict[str, float]:
    p50, p99, most = np.percentile(lags, [50, 99, 100]) * 1e3
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(most), "ticks": len(lags)}
