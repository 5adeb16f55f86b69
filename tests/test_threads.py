"""The library's calls in threads use nothing that the application shares, and each event loop has limits of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import trio

from asyncprefetch import AsyncPrefetcher, AsyncPrefetcherState
from asyncprefetch.testing import assert_items_equal
from tests.conftest import inline
from tests.consumer import rest, take, until
from tests.inside import MAX_CALLS, file_limiter, in_file_thread, in_thread, memory_limiter
from tests.pipelines.counting import Count

SOON = 20  # seconds, far more than any step needs
LIMITERS = pytest.mark.parametrize(
    ("in_a_thread", "limiter"), [(in_thread, memory_limiter), (in_file_thread, file_limiter)], ids=["memory", "files"]
)


@contextlib.asynccontextmanager
async def no_shared_threads():
    """Leave no thread in anyio's default limiter, nor in the loop's default executor. The body has limited time."""
    limiter = anyio.to_thread.current_default_thread_limiter()
    endpoints = [object() for _ in range(int(limiter.total_tokens))]
    for endpoint in endpoints:
        limiter.acquire_on_behalf_of_nowait(endpoint)
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    asyncio.get_running_loop().set_default_executor(executor)
    async with asyncio.timeout(SOON):
        yield
    for endpoint in endpoints:
        limiter.release_on_behalf_of(endpoint)


@contextlib.asynccontextmanager
async def held(in_a_thread, limiter, count=MAX_CALLS):
    """Hold so many calls in their threads, or before them. Yields the list of those that have begun."""
    await in_a_thread(int)  # the first call of a loop makes the limiter
    opened, begun = threading.Event(), []

    def wait():
        begun.append(None)
        assert opened.wait(SOON)

    calls = [asyncio.create_task(in_a_thread(wait)) for _ in range(count)]
    try:
        await until(lambda: sum(_counts(limiter())) == count)
        yield begun
    finally:
        opened.set()
        await asyncio.gather(*calls)
    assert len(begun) == count


def _counts(limiter):
    statistics = limiter.statistics()
    return statistics.borrowed_tokens, statistics.tasks_waiting


# ------------------------------------------------------------------------------------------------- the application's


@pytest.mark.both_loops
async def test_a_loader_delivers_and_gives_states_though_the_application_uses_all_shared_threads(executor_factory):
    pipeline = Count(6, items="big")
    async with no_shared_threads(), AsyncPrefetcher(pipeline, workers=executor_factory) as loader:
        got = await take(loader, 2)
        states = [await loader.get_state(), await loader.get_state(grace=0)]
        got += [item async for item in loader]
    assert_items_equal(got, pipeline.model())
    for state in states:
        assert_items_equal(await rest(state.build(workers=inline)), got[2:])


@pytest.mark.both_loops
async def test_a_state_is_saved_and_loaded_though_the_application_uses_all_shared_threads(tmp_path):
    async with AsyncPrefetcher(Count(3), workers=inline) as loader:
        state = await loader.get_state()
    async with no_shared_threads():
        await AsyncPrefetcherState.check_writable(tmp_path / "state")
        await state.save(tmp_path / "state")
        assert await AsyncPrefetcherState.load(tmp_path / "state") == state


@pytest.mark.both_loops
async def test_an_endpoint_in_the_last_shared_thread_gets_a_state_and_saves_it(tmp_path):
    anyio.to_thread.current_default_thread_limiter().total_tokens = 1

    def endpoint():
        state = anyio.from_thread.run(loader.get_state)
        anyio.from_thread.run(state.save, tmp_path / "state")

    async with AsyncPrefetcher(Count(3), workers=inline) as loader, asyncio.timeout(SOON):
        await anyio.to_thread.run_sync(endpoint)
        assert await AsyncPrefetcherState.load(tmp_path / "state") == await loader.get_state()


# ------------------------------------------------------------------------------------------------------ limits of our own


@LIMITERS
@pytest.mark.both_loops
async def test_a_bounded_number_of_calls_runs_at_a_time(in_a_thread, limiter):
    async with held(in_a_thread, limiter, MAX_CALLS + 5) as begun:
        assert _counts(limiter()) == (MAX_CALLS, 5)
        assert len(begun) <= MAX_CALLS


async def test_a_file_system_that_hangs_delays_no_state_and_no_batch():
    pipeline = Count(4, items="big")
    async with held(in_file_thread, file_limiter), AsyncPrefetcher(pipeline, workers=inline) as loader:
        async with asyncio.timeout(SOON):
            await loader.get_state()
            assert_items_equal(await take(loader, 4), pipeline.model())


@LIMITERS
@pytest.mark.both_loops
async def test_a_loop_in_another_thread_has_limits_of_its_own(in_a_thread, limiter):
    async with held(in_a_thread, limiter):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(asyncio.run, in_a_thread(threading.get_ident))
            async with asyncio.timeout(SOON):
                assert await asyncio.wrap_future(other) != threading.get_ident()


@LIMITERS
@pytest.mark.both_loops
async def test_a_call_that_is_cancelled_before_it_begins_is_not_made(in_a_thread, limiter):
    made = []
    async with held(in_a_thread, limiter):
        call = asyncio.create_task(in_a_thread(made.append, 1))
        await until(lambda: _counts(limiter()) == (MAX_CALLS, 1))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert _counts(limiter()) == (MAX_CALLS, 0)
    assert made == []


@LIMITERS
@pytest.mark.both_loops
async def test_a_call_that_is_cancelled_after_it_began_completes_in_its_thread(in_a_thread, limiter):
    begun, opened, over = threading.Event(), threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def function():
        loop.call_soon_threadsafe(begun.set)
        assert opened.wait(SOON)
        loop.call_soon_threadsafe(over.set)

    call = asyncio.create_task(in_a_thread(function))
    await until(begun.is_set)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert not over.is_set()
    opened.set()
    async with asyncio.timeout(SOON):
        await over.wait()
    assert _counts(limiter()) == (0, 0)


@LIMITERS
def test_calls_run_under_trio_too(in_a_thread, limiter):
    """A program on trio may load and save states, though it can't run a loader."""
    assert trio.run(in_a_thread, threading.get_ident) != threading.get_ident()
