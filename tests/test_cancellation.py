"""A cancelled ``__anext__`` or ``get_state`` has no effect, at any point. A cancelled ``aclose`` still closes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import stat
import threading

import anyio
import pytest

from asyncprefetch import AsyncPrefetcher, PrefetcherClosedError
from tests.conftest import EXECUTORS, descriptors, inline
from tests.consumer import cancelled_after, rest, take, through_json
from tests.inside import LoaderEvent, LoaderSocket, shutdown_of
from tests.pipelines.counting import Count, in_turns

# More rounds than any call needs on the inline executor, so the tests cancel it at every point.
ROUNDS = range(14)


async def until_done(coroutine):
    """Return how many rounds of the loop a call needs."""
    task = asyncio.create_task(coroutine)
    rounds = 0
    while not task.done():
        await asyncio.sleep(0)
        rounds += 1
    return rounds


@pytest.mark.parametrize("prefetch", [1, 3])
@pytest.mark.both_loops
async def test_next_cancelled_at_any_point_loses_no_batch(executor_factory, prefetch):
    pipeline = [Count(30), Count(20, 100)]
    model = [(n,) for n in in_turns([shard.model() for shard in pipeline])]
    got = []

    async def wrapped(loader):
        return (await anext(loader),)  # a tuple distinguishes an item from a cancellation

    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=prefetch, workers=executor_factory) as loader:
        for rounds in [*ROUNDS, *ROUNDS]:
            item = await cancelled_after(rounds, wrapped(loader))
            if item is not None:
                got.append(item)
        state = await loader.get_state()
        left = [(item,) async for item in loader]
    assert got + left == model
    assert [(n,) for n in await rest(state.build(workers=executor_factory))] == left


@pytest.mark.both_loops
async def test_the_rounds_are_enough_to_meet_every_point():
    async with AsyncPrefetcher(Count(9), n_batches_to_prefetch=1, workers=inline) as loader:
        for _ in range(5):
            assert await until_done(anext(loader)) < ROUNDS.stop


@pytest.mark.parametrize("rounds", ROUNDS)
@pytest.mark.both_loops
async def test_get_state_cancelled_at_any_point_changes_nothing(executor_factory, rounds):
    pipeline = [Count(9), Count(9, 100)]
    model = in_turns([shard.model() for shard in pipeline])
    async with AsyncPrefetcher(pipeline, n_batches_to_prefetch=4, workers=executor_factory) as loader:
        got = await take(loader, 3)
        await cancelled_after(rounds, loader.get_state())
        got += await take(loader, 3)
        await cancelled_after(rounds, loader.get_state())
        state = await loader.get_state()
        assert got + [item async for item in loader] == model
    assert got + await rest(through_json(state).build(workers=executor_factory)) == model


@pytest.mark.both_loops
async def test_a_caller_of_get_state_that_is_cancelled_does_not_disturb_the_others(executor_factory):
    async with AsyncPrefetcher(Count(9), workers=executor_factory) as loader:
        await anext(loader)
        others = [asyncio.create_task(loader.get_state()) for _ in range(3)]
        await asyncio.sleep(0)
        others[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await others[0]
        for task in others[1:]:
            assert (await task).delivered.total == 1
        assert [item async for item in loader] == list(range(1, 9))


@pytest.mark.both_loops
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
@pytest.mark.both_loops
async def test_aclose_cancelled_at_any_point_still_closes(executor_factory, rounds):
    loader = AsyncPrefetcher([Count(9), Count(9, 100)], workers=executor_factory)
    await take(loader, 3)
    await cancelled_after(rounds, loader.aclose())
    if rounds:
        assert loader.statistics().state == "closed"
        with pytest.raises(PrefetcherClosedError):
            await anext(loader)
    await loader.aclose()


@pytest.mark.parametrize("executor", ["inline", "process"])
@pytest.mark.both_loops
async def test_an_anyio_scope_that_is_cancelled_around_the_loader_closes_it(executor):
    with anyio.CancelScope() as scope:
        async with AsyncPrefetcher(Count(10**6), workers=EXECUTORS[executor]) as loader:
            async for item in loader:
                if item == 5:
                    scope.cancel()
    assert scope.cancelled_caught
    assert loader.statistics().state == "closed"


@pytest.mark.parametrize("rounds", ROUNDS)
async def test_a_training_task_that_is_cancelled_leaves_nothing(executor_factory, rounds):
    async def train():
        async with AsyncPrefetcher(Count(10**6), workers=executor_factory) as loader:
            async for _ in loader:
                await loader.get_state()

    assert await cancelled_after(rounds, train()) is None


@pytest.mark.parametrize("rounds", range(6))
def test_all_tasks_cancelled_around_a_loader_that_is_being_closed_still_close_it(executor_factory, rounds):
    """asyncio.run cancels all tasks at its end. The task that closes the loader may not have begun then."""

    async def consume():
        nonlocal loader
        async with AsyncPrefetcher([Count(10**6)] * 2, num_workers=2, workers=executor_factory) as loader:
            try:
                await anext(loader)
            finally:
                reading.set()
            await leave.wait()

    async def main():
        nonlocal reading, leave
        reading, leave = asyncio.Event(), asyncio.Event()
        consumer = asyncio.create_task(consume())
        await reading.wait()
        leave.set()
        for _ in range(rounds):
            await asyncio.sleep(0)
        return consumer

    loader = reading = leave = None
    before = descriptors()
    consumer = asyncio.run(main())
    assert consumer.cancelled() or rounds
    assert loader.statistics().state == "closed"
    assert [worker for worker in loader.statistics().workers if worker.state != "closed"] == []
    assert no_worker_is_left(before)
    asyncio.run(loader.aclose())


@pytest.mark.both_loops
async def test_a_worker_that_is_of_no_more_use_is_closed_though_what_closes_it_is_cancelled(executor_factory):
    def let_go(transport):
        close_transport(transport)
        if cancelled:
            return
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            if task.get_coro().__qualname__.endswith("Transport.aclose"):
                task.cancel()
                cancelled.append(task)

    cancelled = []
    before = descriptors()
    async with AsyncPrefetcher(Count(3), workers=executor_factory) as loader:
        close_transport, loader._core.close_transport = loader._core.close_transport, let_go
        assert [item async for item in loader] == [0, 1, 2]
        assert [task.cancelled() for task in cancelled] == [True]
        assert no_worker_is_left(before)


def test_a_close_that_is_cancelled_during_a_start_closes_no_descriptor_that_is_being_sent(monkeypatch):
    """The start sends the worker's socket and the shared memory by their descriptors' numbers."""
    real_send, real_close, sent = socket.send_fds, LoaderSocket.close, []

    def send(sock, buffers, numbers):
        starting.set()
        assert closed.wait(30)
        sent.extend((number, os.fstat(number)) for number in numbers)
        return real_send(sock, buffers, numbers)

    def close(end):
        real_close(end)
        end._loop.call_soon(closed.set)

    async def run():
        asyncio.create_task(anext(loader))
        await asyncio.to_thread(starting.wait)
        asyncio.create_task(loader.aclose())
        for _ in range(9):  # rounds of the loop, until the transport waits for the start
            await asyncio.sleep(0)

    starting, closed = threading.Event(), threading.Event()
    monkeypatch.setattr(socket, "send_fds", send)
    monkeypatch.setattr(LoaderSocket, "close", close)
    loader = AsyncPrefetcher(Count(9))
    asyncio.run(run())
    assert loader.statistics().state == "closed"
    assert [stat.S_ISSOCK(sent[0][1].st_mode), stat.S_ISREG(sent[1][1].st_mode)] == [True, True]
    for number, was in sent:  # the loader has closed them after it sent them
        with contextlib.suppress(OSError):
            assert os.fstat(number).st_ino != was.st_ino


@pytest.mark.both_loops
async def test_a_close_whose_task_is_cancelled_in_its_last_step_is_over(monkeypatch):
    """A signal handler may do this. The task counts as cancelled, although it has done all its work."""
    loader = AsyncPrefetcher(Count(9), workers=inline)
    await anext(loader)
    step = loader._core._step

    def step_and_cancel(event):
        step(event)
        if event is LoaderEvent.ALL_GONE:
            shutdown_of(loader)._closing.cancel()

    monkeypatch.setattr(loader._core, "_step", step_and_cancel)
    await loader.aclose()
    assert shutdown_of(loader)._closing.cancelled()
    assert loader.statistics().state == "closed"
    await loader.aclose()


def no_worker_is_left(before):
    """Return whether no worker is left, and no descriptor except those that the fork server, its tracker and a loop keep."""
    gc.collect()
    watches = [thread for thread in threading.enumerate() if thread.name.startswith("asyncprefetch-worker")]
    for thread in watches:
        thread.join(10)  # a thread that has reported the end may still run
    left = [thread.name for thread in watches if thread.is_alive()]
    new = {number: name for number, name in descriptors().items() if number not in before}
    return not left and not [name for name in new.values() if "memfd:asyncprefetch" in name] and len(new) <= 6
