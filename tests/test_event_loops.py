"""A loader needs an asyncio event loop. Without one, each entry point raises an error that says so."""

from __future__ import annotations

import asyncio
import threading

import pytest
import trio

from asyncprefetch import AsyncPrefetcher, AsyncPrefetchError, EventLoopError
from tests.conftest import inline
from tests.pipelines.counting import Count


async def enter(loader):
    async with loader:
        pass


ENTRIES = {
    "async with": enter,
    "anext": anext,
    "get_state": lambda loader: loader.get_state(),
    "aclose": lambda loader: loader.aclose(),
}


def by_hand(function, *args):
    """Run a coroutine without an event loop."""

    async def call():
        return await function(*args)

    with pytest.raises(StopIteration):
        call().send(None)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("run", [trio.run, by_hand])
def test_without_asyncio_the_error_names_what_is_needed(run, entry):
    loader = AsyncPrefetcher(Count(3), workers=inline)
    with pytest.raises(EventLoopError, match=r"asyncio or uvloop.*anyio\.run\(main, backend='asyncio'\)") as raised:
        run(ENTRIES[entry], loader)
    assert isinstance(raised.value, AsyncPrefetchError)
    assert isinstance(raised.value, RuntimeError)  # asyncio itself raises a RuntimeError
    assert asyncio.run(everything(loader)) == [0, 1, 2]  # the failed calls changed nothing


async def everything(loader):
    async with loader:
        return [item async for item in loader]


@pytest.mark.parametrize("entry", ["anext", "get_state", "aclose"])
@pytest.mark.both_loops
async def test_a_loader_that_runs_under_asyncio_can_not_be_used_under_trio_beside_it(entry):
    async with AsyncPrefetcher(Count(3), workers=inline) as loader:
        got = [await anext(loader)]
        errors = []

        def other():
            try:
                trio.run(ENTRIES[entry], loader)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=other)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert [type(error) for error in errors] == [EventLoopError]
        assert got + [item async for item in loader] == [0, 1, 2]
