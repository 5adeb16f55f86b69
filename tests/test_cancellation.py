"""Cancelled means it did not happen: of ``__anext__``, ``get_state`` and ``aclose``, at every point where they wait."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from asyncprefetch import AsyncPrefetcher, PrefetcherClosedError
from tests.conftest import EXECUTORS, inline
from tests.pipelines import Count, in_turns
from tests.test_prefetcher import rest, take, through_json

# More than any of the calls needs on the inline executor: so every point at which they can be cancelled is met.
ROUNDS = range(14)


async def cancelled_after(rounds, coroutine):
    """Its result, or ``None`` if the cancellation came first."""
    task = asyncio.create_task(coroutine)
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def until_done(coroutine):
    """How many rounds of the loop a call needs."""
    task = asyncio.create_task(coroutine)
    rounds = 0
    while not task.done():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


@pytest.mark.parametrize("prefetch", [1, 3])
async def test_next_cancelled_at_any_point_loses_no_batch(executor_factory, prefetch):
    pipeline = [Count(30), Count(20, 100)]
    model = [(n,) for n in in_turns([shard.model() for shard in pipeline])]
    got = []

    async def wrapped(loader):
        return (await anext(loader),)  # a tuple, to tell an item from a cancellation

    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=prefetch, executor_factory=executor_factory) as loader:
        for rounds in [*ROUNDS, *ROUNDS]:
            item = await cancelled_after(rounds, wrapped(loader))
            if item is not None:
                got.append(item)
        state = await loader.get_state()
        left = [(item,) async for item in loader]
    assert got + left == model
    assert [(n,) for n in await rest(state.build(executor_factory=executor_factory))] == left


async def test_the_rounds_are_enough_to_meet_every_point():
    async with AsyncPrefetcher(Count(9), n_batches_to_prefetch=1, executor_factory=inline) as loader:
        for _ in range(5):
            assert await until_done(anext(loader)) < ROUNDS.stop


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_get_state_cancelled_at_any_point_changes_nothing(executor_factory, rounds):
    pipeline = [Count(9), Count(9, 100)]
    model = in_turns([shard.model() for shard in pipeline])
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, executor_factory=executor_factory) as loader:
        got = await take(loader, 3)
        await cancelled_after(rounds, loader.get_state())
        got += await take(loader, 3)
        await cancelled_after(rounds, loader.get_state())
        state = await loader.get_state()
        assert got + [item async for item in loader] == model
    assert got + await rest(through_json(state).build(executor_factory=executor_factory)) == model


async def test_a_caller_of_get_state_that_is_cancelled_does_not_disturb_the_others(executor_factory):
    async with AsyncPrefetcher(Count(9), executor_factory=executor_factory) as loader:
        await anext(loader)
        others = [asyncio.create_task(loader.get_state()) for _ in range(3)]
        await asyncio.sleep(0)
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await others[0]
        for task in others[1:]:
            assert (await task).delivered.total == 1
        assert [item async for item in loader] == list(range(1, 9))


async def test_a_timeout_loses_no_batch():
    async with AsyncPrefetcher(Count(200), n_batches_to_prefetch=2) as loader:
        got = []
        while len(got) < 100:
            try:
                got.append(await asyncio.wait_for(anext(loader), 0.002))
            except TimeoutError:
                continue
        assert got == list(range(100))


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_aclose_cancelled_at_any_point_still_closes(executor_factory, rounds):
    loader = AsyncPrefetcher([Count(9), Count(9, 100)], executor_factory=executor_factory)
    await take(loader, 3)
    await cancelled_after(rounds, loader.aclose())
    if rounds:
        assert loader.statistics().state == "closed"
        with pytest.raises(PrefetcherClosedError):
            await anext(loader)
    await loader.aclose()


@pytest.mark.parametrize("executor", ["inline", "process"])
async def test_an_anyio_scope_that_is_cancelled_around_the_loader_closes_it(executor):
    with anyio.CancelScope() as scope:
        async with AsyncPrefetcher(Count(10**6), executor_factory=EXECUTORS[executor]) as loader:
            async for item in loader:
                if item == 5:
                    scope.cancel()
    assert scope.cancelled_caught
    assert loader.statistics().state == "closed"


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_a_training_task_that_is_cancelled_leaves_nothing(executor_factory, rounds):
    async def train():
        async with AsyncPrefetcher(Count(10**6), executor_factory=executor_factory) as loader:
            async for _ in loader:
                await loader.get_state()

    assert await cancelled_after(rounds, train()) is None
