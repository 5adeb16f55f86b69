"""Batches a second, and what one costs the consumer."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

from asyncprefetch import AsyncPrefetcher
from tests.benchmarks.batches import compute
from tests.benchmarks.measurements.consumer import Consumer, consume
from tests.benchmarks.peers import open_stream
from tests.benchmarks.workloads import recipe

FORK = multiprocessing.get_context("fork")


async def stream(
    peer: str,
    make: str,
    size: str,
    prefetch: int,
    *,
    warm_up: float,
    seconds: float,
    consumer_spin: float = 0.0,
    recipe_options: dict[str, Any] | None = None,
    peer_options: dict[str, Any] | None = None,
) -> dict[str, float]:
    """One contender at full speed, or with a producer and a consumer that take their time."""
    source = recipe(make, size, **(recipe_options or {}))
    consumer = Consumer(warm_up, seconds, consumer_spin)
    await consume(open_stream(peer, source, prefetch, **(peer_options or {})), consumer)
    return consumer.figures()


async def sharded(workers: int, shards: int, operations: int, warm_up: float, seconds: float) -> dict[str, float]:
    """A stream of several shards of CPU-bound producers, by one worker or more."""
    recipes = [recipe("plain", "2 KB", operations=operations, stride=shards, number=i) for i in range(shards)]
    consumer = Consumer(warm_up, seconds)
    await consume(AsyncPrefetcher([r.build() for r in recipes], num_workers=workers), consumer)
    return consumer.figures()


async def processes(workers: int, operations: int, warm_up: float, seconds: float) -> dict[str, float]:
    """The same work in as many processes that send nothing to anyone: what the machine itself gains by another."""
    barrier, rates = FORK.Barrier(workers), FORK.SimpleQueue()
    running = [FORK.Process(target=_work, args=(barrier, rates, operations, warm_up, seconds)) for _ in range(workers)]
    for process in running:
        process.start()
    rate = sum(rates.get() for _ in running)
    for process in running:
        process.join()
    return {"rate": rate}


def _work(barrier: Barrier, rates: Any, operations: int, warm_up: float, seconds: float) -> None:
    barrier.wait()
    for duration in (warm_up, seconds):
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < duration:
            compute(operations)
            done += 1
        rate = done / (time.perf_counter() - began)
    rates.put(rate)
