"""An error in user code comes after all batches before it, is raised again by each call, and never ends the stream."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from asyncprefetch import (
    AsyncPrefetcher,
    CheckpointError,
    PrefetcherBusyError,
    PrefetcherClosedError,
    ProducerError,
)
from tests.conftest import EXECUTORS
from tests.faults.raising import ERRORS, PHASES, Raising
from tests.inside import class_name
from tests.pipelines import unpickling
from tests.pipelines.counting import Count
from tests.pipelines.gates import Gate, GateKeeper

TRANSPORTS = pytest.mark.parametrize("transport", ["process", "pull"])

# By the rules of Python, StopIteration from __next__ is the end.
IS_THE_END = {("StopIteration", "__next__")}

# Ctrl-C is no failure of an item: the program itself runs while it unpickles an item or formats its error.
INTERRUPTS = {"KeyboardInterrupt", "interrupts when printed"}

# Seconds that one error may take on a busy machine.
BOUND = 10


async def meets(factory, error, phase):
    at = 0 if phase in {"build", "create_iter"} else 3
    loader = AsyncPrefetcher(Raising(error, phase, at), n_batches_to_prefetch=2, workers=factory)
    async with loader:
        for n in range(at):
            assert await anext(loader) == n
        texts = []
        for _ in range(3):
            with pytest.raises(ProducerError) as raised:
                await anext(loader)
            texts.append(str(raised.value))
            assert raised.value.phase == phase.strip("_")
            assert (raised.value.shard, raised.value.position) == (0, at)
            assert raised.value.remote_traceback
            original = raised.value.original
            # A generator turns StopIteration into a RuntimeError.
            assert original is None or type(original) in {type(ERRORS[error]()), RuntimeError}
        assert len(set(texts)) == 1
        state = await loader.get_state()
        assert state.delivered.total == at
        with pytest.raises(ProducerError):
            await anext(loader)
    with pytest.raises(PrefetcherClosedError):
        await anext(loader)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("error", ERRORS)
async def test_whatever_is_raised_wherever_comes_in_its_place_and_again(error, phase):
    if (error, phase) in IS_THE_END:
        pytest.skip("the end, by the rules of the language")
    async with asyncio.timeout(BOUND):
        await meets(EXECUTORS["inline"], error, phase)


@TRANSPORTS
@pytest.mark.asyncio(loop_factories=["asyncio"])
@pytest.mark.parametrize("phase", ["next", "get_state"])
async def test_the_same_from_another_process(transport, phase):
    for error in ERRORS:
        async with asyncio.timeout(BOUND):
            await meets(EXECUTORS[transport], error, phase)


@TRANSPORTS
@pytest.mark.parametrize("phase", ["unpickle", "unpickle in a thread"])
@pytest.mark.parametrize("error", sorted(ERRORS.keys() - INTERRUPTS))
async def test_whatever_an_item_raises_when_it_is_opened_comes_in_its_place_and_again(transport, phase, error):
    pipeline = Raising(error, phase, 1)
    async with asyncio.timeout(BOUND), AsyncPrefetcher(pipeline, workers=EXECUTORS[transport]) as loader:
        assert await anext(loader) == 0
        for _ in range(3):
            with pytest.raises(ProducerError) as raised:
                await anext(loader)
            assert (raised.value.phase, raised.value.shard, raised.value.position) == ("unpickle", 0, 1)
            assert raised.value.type_name == class_name(type(ERRORS[error]()))
            assert raised.value.original is raised.value.__cause__ is not None
        with pytest.raises(CheckpointError, match="can't be unpickled here"):
            await loader.get_state()


@TRANSPORTS
@pytest.mark.both_loops
async def test_a_state_that_raises_when_it_is_opened_is_no_checkpoint(transport):
    for error in sorted(ERRORS.keys() - INTERRUPTS):
        pipeline = Raising(error, "state made again", 1)
        async with asyncio.timeout(BOUND), AsyncPrefetcher(pipeline, workers=EXECUTORS[transport]) as loader:
            assert await anext(loader) == 0
            with pytest.raises(CheckpointError, match="the state of shard 0 can't be unpickled here"):
                await loader.get_state()


@TRANSPORTS
@pytest.mark.both_loops
async def test_a_cancellation_while_an_item_is_opened_stays_one_and_loses_nothing(transport, monkeypatch):
    opening, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr(unpickling, "on_opening", [opening.set, lambda: go_on.wait(BOUND)])
    async with (
        asyncio.timeout(BOUND),
        AsyncPrefetcher(unpickling.telling, workers=EXECUTORS[transport]) as loader,
    ):
        waiting = asyncio.create_task(anext(loader))
        await asyncio.to_thread(opening.wait, BOUND)
        waiting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert [item["x"][0] async for item in loader] == [0, 1, 2, 3]


@TRANSPORTS
@pytest.mark.parametrize("phase", ["unpickle", "unpickle in a thread"])
@pytest.mark.both_loops
async def test_an_interrupt_while_an_item_is_opened_stays_one(transport, phase):
    pipeline = Raising("KeyboardInterrupt", phase, 1)
    async with asyncio.timeout(BOUND), AsyncPrefetcher(pipeline, workers=EXECUTORS[transport]) as loader:
        assert await anext(loader) == 0
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                await anext(loader)


@TRANSPORTS
@pytest.mark.both_loops
async def test_all_that_is_due_before_an_error_of_another_shard_is_delivered(transport):
    pipeline = [Count(4, 100), Raising("exits when made again", "next", 2), Count(4, 200)]
    async with asyncio.timeout(BOUND), AsyncPrefetcher(pipeline, workers=EXECUTORS[transport]) as loader:
        assert [await anext(loader) for _ in range(7)] == [100, 0, 200, 101, 1, 201, 102]
        for _ in range(2):
            with pytest.raises(ProducerError, match="shard 1, position 2"):
                await anext(loader)


# --------------------------------------------------------------------------------------------------- wrong uses


@TRANSPORTS
@pytest.mark.both_loops
async def test_a_second_call_while_one_waits_is_refused_and_disturbs_nothing(tmp_path, transport):
    keeper = GateKeeper(tmp_path, 1)
    async with asyncio.timeout(BOUND):
        async with AsyncPrefetcher(Gate(3, str(tmp_path)), workers=EXECUTORS[transport]) as loader:
            assert await anext(loader) == 0
            waiting = asyncio.create_task(anext(loader))
            await keeper.reached(1)
            for _ in range(3):
                with pytest.raises(PrefetcherBusyError, match="another task is waiting"):
                    await anext(loader)
            await keeper.open(1)
            assert await waiting == 1
            assert await anext(loader) == 2
            with pytest.raises(StopAsyncIteration):
                await anext(loader)


@TRANSPORTS
@pytest.mark.both_loops
async def test_a_loop_of_another_thread_is_refused_and_disturbs_nothing(transport):
    refused = []

    async def elsewhere(loader):
        leave = functools.partial(loader.__aexit__, None, None, None)
        for call in (loader.__anext__, loader.get_state, loader.__aenter__, loader.aclose, leave):
            try:
                await call()
            except PrefetcherBusyError:
                refused.append(call)

    async with asyncio.timeout(BOUND), AsyncPrefetcher(Count(5), workers=EXECUTORS[transport]) as loader:
        assert await anext(loader) == 0
        thread = threading.Thread(target=lambda: asyncio.run(elsewhere(loader)))
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(refused) == 5
        assert [item async for item in loader] == [1, 2, 3, 4]


@TRANSPORTS
@pytest.mark.both_loops
async def test_after_aclose_every_call_is_refused_at_once(transport):
    loader = AsyncPrefetcher(Count(5), workers=EXECUTORS[transport])
    assert await anext(loader) == 0
    await loader.aclose()
    async with asyncio.timeout(1):
        for call in (loader.__anext__, loader.get_state, loader.__aenter__) * 2:
            with pytest.raises(PrefetcherClosedError):
                await call()
        await loader.aclose()
