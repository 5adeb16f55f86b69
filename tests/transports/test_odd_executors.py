"""Loaders on executors that complete calls out of order, which is harmless, or that break the executor's contract."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor, wait

import pytest

from asyncprefetch import AsyncPrefetcher, ProducerStalledError, WorkerDiedError, register
from asyncprefetch.executors import InlineExecutor, ProcessExecutor
from asyncprefetch.iterators import from_iterable
from tests.conftest import inline
from tests.consumer import rest, take, through_bytes, until_error
from tests.inside import (
    Call,
    PullRunner,
    Refusal,
)
from tests.pipelines.counting import Count, in_turns
from tests.pipelines.dying import Die

# ----------------------------------------------------------------------------------- executors that complete out of order


class Delayed(ThreadPoolExecutor):
    """One worker that runs calls in order. Each future completes a random time after its call."""

    def __init__(self, seed: int):
        super().__init__(1)
        self._timers: list[threading.Timer] = []
        self._random = random.Random(seed)

    def submit(self, function, /, *args):
        future: Future = Future()

        def done(inner):
            timer = threading.Timer(self._random.uniform(0, 0.004), future.set_result, [inner.result()])
            self._timers.append(timer)
            timer.start()

        super().submit(function, *args).add_done_callback(done)
        return future

    def shutdown(self, *args, **kwargs):
        super().shutdown(*args, **kwargs)
        for timer in self._timers:
            timer.join()


def delayed(worker: int) -> Delayed:
    return Delayed(worker)


@pytest.mark.both_loops
async def test_futures_that_complete_in_any_order_change_no_batch():
    loader = AsyncPrefetcher([Count(250), Count(250, 1000)], num_workers=1, workers=delayed)
    async with loader:
        got = await take(loader, 100)
        state = await loader.get_state()
        got += [batch async for batch in loader]
    assert got == in_turns([list(range(250)), list(range(1000, 1250))])
    assert got[:100] + await rest(through_bytes(state).build(workers=delayed)) == got


# ---------------------------------------------------------------------------------- executors that do what none may do


class Odd(InlineExecutor):
    """Makes each call at once, but from one call on it calls ``odd``, which a subclass defines."""

    def __init__(self, at: int = 3):
        self.at = at

    def submit(self, function, /, *args):
        if args and args[0].number >= self.at:
            return self.odd(function, args[0])
        return super().submit(function, *args)

    def odd(self, function, call):
        raise NotImplementedError


class Swaps(Odd):
    """Makes a call after its successor."""

    held = None

    def odd(self, function, call):
        if call.number == self.at:
            self.held = Future()
            self.late = (function, call)
            return self.held
        future = InlineExecutor.submit(self, function, call)
        if not self.held.done():
            self.held.set_result(self.late[0](self.late[1]))
        return future


class Twice(Odd):
    """Makes a call twice, and returns the second result."""

    def odd(self, function, call):
        function(call)
        return InlineExecutor.submit(self, function, call)


class Drops(Odd):
    """Loses a call, and continues with the next one."""

    def odd(self, function, call):
        return Future() if call.number == self.at else InlineExecutor.submit(self, function, call)


class TwoWorkers(Odd):
    """Sends one call to another worker."""

    def __init__(self):
        super().__init__()
        self.other = PullRunner("another worker")

    def odd(self, function, call):
        if call.number == self.at:
            self.first = Future()
            return self.first
        if not self.first.done():
            self.first.set_result(self.other.handle(Call(self.at, ())))
        return InlineExecutor.submit(self, function, call)


ODD = {
    Swaps: "made call 4 before call 3",
    Twice: "made call 3 again after it was done",
    Drops: "made call 4 before call 3",
    TwoWorkers: "made call 3 in another worker than the calls around it",
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.both_loops
async def test_an_executor_that_breaks_the_contract_is_named_in_the_error_and_no_batch_is_lost(odd):
    async with (
        asyncio.timeout(10),
        AsyncPrefetcher(Count(20), n_batches_to_prefetch=9, workers=lambda worker: odd()) as loader,
    ):
        got, raised = await until_error(loader)
        state = await loader.get_state()
        assert loader.statistics().restarts == 0  # a restart would not help
    assert isinstance(raised, WorkerDiedError)
    assert f"worker 0 can't be used: its executor, {__name__}.{odd.__name__}, {ODD[odd]}." in str(raised)
    assert "A loader needs an executor with one worker" in str(raised)
    assert got == list(range(len(got)))
    assert got + await rest(through_bytes(state).build(workers=inline)) == list(range(20))


@pytest.mark.both_loops
async def test_a_call_that_is_made_twice_is_harmless_if_its_first_answer_is_returned():
    class TwiceForOne(Odd):
        def odd(self, function, call):
            future = InlineExecutor.submit(self, function, call)
            function(call)
            return future

    assert await rest(AsyncPrefetcher(Count(20), workers=lambda worker: TwiceForOne())) == list(range(20))


drawing, refused = threading.Event(), threading.Event()


@register("tests.pull.until_refused")
def until_refused():
    yield from range(2)
    drawing.set()
    refused.wait(10)
    yield 2


async def test_a_pool_of_threads_is_named_in_the_error():
    for event in (drawing, refused):
        event.clear()

    class Pool(ThreadPoolExecutor):
        def submit(self, function, /, *args):
            def call():
                if args and args[0].number > 3:
                    drawing.wait(10)  # until call 3 runs in another thread
                result = function(*args)
                if isinstance(result, Refusal):
                    refused.set()
                return result

            future = super().submit(call)
            if args and args[0].number < 3:
                wait([future])  # the first calls must not overlap
            return future

    async with asyncio.timeout(10):
        with pytest.raises(WorkerDiedError, match=r"Pool, made call 4 while call 3 was running\. A loader needs"):
            await rest(AsyncPrefetcher(from_iterable(until_refused), workers=lambda worker: Pool(4)))


class DiesSilently(Odd):
    """One call fails with its worker, and later calls are never answered."""

    def odd(self, function, call):
        future: Future = Future()
        if call.number == self.at:
            future.set_exception(BrokenExecutor("the node is gone"))
        return future


class DiesOverACall(Odd):
    """A call is never answered, and later ones are refused."""

    def odd(self, function, call):
        if call.number > self.at:
            raise BrokenExecutor("the node is gone")
        return Future()


@pytest.mark.parametrize("dies", [DiesSilently, DiesOverACall])
async def test_a_death_after_which_calls_are_never_answered_is_seen_and_made_good(dies, caplog):
    executors = [InlineExecutor(), dies()]
    async with asyncio.timeout(10):
        loader = AsyncPrefetcher(Count(20), workers=lambda worker: executors.pop())
        assert await rest(loader) == list(range(20))
    assert "worker 0 died: BrokenExecutor: the node is gone, while it made item" in caplog.text
    assert loader.statistics().restarts == 1


class OutOfMemory(InlineExecutor):
    def submit(self, function, /, *args):
        raise MemoryError


async def test_an_executor_that_has_no_memory_for_a_call_is_an_error_that_says_what_to_do():
    with pytest.raises(WorkerDiedError, match=r"died: MemoryError:  \(raise the limit of memory "):
        await rest(AsyncPrefetcher(Count(3), max_restarts=0, workers=lambda worker: OutOfMemory()))


async def test_an_executor_that_goes_silent_is_a_stall_and_can_be_closed():
    class Silent(Odd):
        def odd(self, function, call):
            return Future()

    async with (
        asyncio.timeout(20),
        AsyncPrefetcher(Count(20), stall_timeout=0.5, workers=lambda worker: Silent()) as loader,
    ):
        got, raised = await until_error(loader)
        assert isinstance(raised, ProducerStalledError)
        assert got == list(range(len(got)))


@pytest.mark.asyncio(loop_factories=["asyncio"])
async def test_an_item_that_kills_its_worker_each_time_is_found_though_calls_draw_many(caplog):
    """A death loses all items of its call. The next worker draws one item a call, so the error names the item that kills."""
    pipeline = Die.make(500, 300, "SIGKILL")
    async with AsyncPrefetcher(
        pipeline, n_batches_to_prefetch=64, max_restarts=2, workers=lambda worker: ProcessExecutor()
    ) as loader:
        got, raised = await until_error(loader)
    assert got == list(range(300))
    assert isinstance(raised, WorkerDiedError)
    assert (raised.shard, raised.position) == (0, 300)
    assert "It was started again 2 times without progress" in str(raised)
    assert {record.name for record in caplog.records} == {"asyncprefetch"}  # asyncio logs nothing
