"""What a test does as the consumer of a loader: take batches, wait for a figure, save and restore.

Programs that tests start import this module, so it imports little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from asyncprefetch import AsyncPrefetcher, AsyncPrefetchError, AsyncPrefetcherState


async def take(loader: AsyncPrefetcher[Any], count: int) -> list[Any]:
    """The next ``count`` items."""
    return [await anext(loader) for _ in range(count)]


async def rest(loader: AsyncPrefetcher[Any]) -> list[Any]:
    """All items up to the end. The loader is closed then."""
    async with loader:
        return [item async for item in loader]


async def until(condition: Callable[[], object], seconds: float = 1.0) -> None:
    """Wait for a condition that the loop itself brings about. Raise ``TimeoutError`` if it is not met in time."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def until_error(loader: AsyncPrefetcher[Any]) -> tuple[list[Any], AsyncPrefetchError]:
    """The items that are delivered before the error, and the error."""
    got = []
    try:
        async for item in loader:
            got.append(item)
    except AsyncPrefetchError as error:
        return got, error
    raise AssertionError(f"no error after {got}")


async def cancelled_after(rounds: int, call: Awaitable[Any]) -> Any:
    """The result of a call that is cancelled after some rounds of the loop, or ``None`` if it was still waiting."""
    task = asyncio.ensure_future(call)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


def through_json(state: AsyncPrefetcherState) -> AsyncPrefetcherState:
    """The state, written as JSON and read back."""
    return AsyncPrefetcherState.from_json(state.to_json())


def through_bytes(state: AsyncPrefetcherState) -> AsyncPrefetcherState:
    """The state, written as a checkpoint file's bytes and read back."""
    return AsyncPrefetcherState.from_bytes(state.to_bytes())
