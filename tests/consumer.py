"""What a test does as the consumer of a loader: take batches, wait for a figure, save and restore.

Programs that tests start import this module, so it imports little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asyncprefetch import AsyncPrefetcher, AsyncPrefetchError, AsyncPrefetcherState


async def take(loader: AsyncPrefetcher[Any], count: int) -> list[Any]:
    """Return the next ``count`` items."""
    return [await anext(loader) for _ in range(count)]


async def rest(loader: AsyncPrefetcher[Any]) -> list[Any]:
    """Return all items up to the end, and close the loader."""
    async with loader:
        return [item async for item in loader]


async def until(condition: Callable[[], object], seconds: float = 1.0) -> None:
    """Wait for a condition that the loop itself brings about. Raise ``TimeoutError`` if it is not met in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def until_error(loader: AsyncPrefetcher[Any]) -> tuple[list[Any], AsyncPrefetchError]:
    """Return the items that the loader delivers before the error, and the error."""
    got = []
    try:
        async for item in loader:
            got.append(item)
    except AsyncPrefetchError as error:
        return got, error
    raise AssertionError(f"no error after {got}")


async def cancelled_after(rounds: int, call: Awaitable[Any]) -> Any:
    """Cancel a call after some rounds of the loop. Return its result, or ``None`` if it was still waiting."""
    task = asyncio.ensure_future(call)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


def through_json(state: AsyncPrefetcherState) -> AsyncPrefetcherState:
    """Return the state after a round trip through JSON."""
    return AsyncPrefetcherState.from_json(state.to_json())


def through_bytes(state: AsyncPrefetcherState) -> AsyncPrefetcherState:
    """Return the state after a round trip through the bytes of a checkpoint file."""
    return AsyncPrefetcherState.from_bytes(state.to_bytes())
