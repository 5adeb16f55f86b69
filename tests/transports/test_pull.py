"""The pull transport, on executors whose calls the test answers."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest

from asyncprefetch import AsyncPrefetcher, WorkerDiedError
from asyncprefetch.executors import InlineExecutor, ProcessExecutor
from tests.consumer import rest
from tests.inside import (
    Answer,
    Call,
    Credit,
    EndOfShard,
    Failed,
    Final,
    Framed,
    FromWorker,
    Hello,
    Item,
    PullRunner,
    PullTransport,
    Refusal,
    RemoteError,
    Replaying,
    RunCredit,
    Setup,
    ShardStart,
    Start,
    Stop,
    call_queue,
    executor_faults,
    executor_life,
    worker_end,
)
from tests.pipelines.counting import Count

SETUP = Setup(0, None)


def item(position: int, shard: int = 0, run: int = 1) -> Item:
    return Item(run, shard, position, 0, Framed(b""))


def start(run: int = 1, *shards: int) -> Start:
    return Start(run, dict.fromkeys(shards or (0,), ShardStart(b"", 0, ())))


# --------------------------------------------------------------------------------------------------------------- credit


def test_credit_is_sent_once_and_the_newest_of_a_shard_includes_the_older():
    credits = RunCredit()
    credits.begin({0: 0, 1: 0})
    for credit in (Credit(1, 0, 1), Credit(1, 0, 3), Credit(1, 1, 2), Credit(1, 0, 4)):
        credits.add(credit)
    assert list(credits.take()) == [Credit(1, 0, 3), Credit(1, 1, 2), Credit(1, 0, 4)]
    assert (credits.has_unsent, list(credits.take())) == (False, [])


def test_the_item_that_is_being_drawn_is_the_oldest_that_credit_was_sent_for():
    credits = RunCredit()
    credits.begin({0: 5, 1: 0})
    credits.add(Credit(1, 0, 6))
    assert credits.drawing is None  # the credit was not sent yet
    credits.add(Credit(1, 1, 1))
    credits.add(Credit(1, 0, 7))
    credits.take()
    assert credits.drawing == (0, 5)
    credits.received(item(5))
    assert credits.drawing == (1, 0)
    credits.received(item(0, shard=1))
    assert credits.drawing == (0, 6)
    credits.received(item(6))
    assert credits.drawing is None


@pytest.mark.parametrize(
    "last", [EndOfShard(1, 0, 1), Failed(1, 0, 1, RemoteError("next", "OSError", ("OSError",), "", "", None))]
)
def test_a_shard_that_sends_nothing_more_is_not_drawn_from(last):
    credits = RunCredit()
    credits.begin({0: 1, 1: 0})
    credits.add(Credit(1, 0, 9))
    credits.add(Credit(1, 1, 1))
    credits.take()
    credits.received(last)
    assert credits.drawing == (1, 0)


def test_the_credit_of_a_run_ends_with_it():
    credits = RunCredit()
    credits.begin({0: 0})
    credits.add(Credit(1, 0, 9))
    credits.take()
    credits.add(Credit(1, 0, 10))
    assert credits.goes_on
    credits.end()
    assert (credits.drawing, credits.has_unsent, credits.goes_on) == ((0, 0), False, False)  # a call may be drawing
    credits.received(Final(1))
    assert credits.drawing is None


# ------------------------------------------------------------------------------------------ calls that the test answers


class ByHand(Executor):
    """An executor whose calls the test answers in any order."""

    starts_without_blocking = True

    def __init__(self):
        self.calls: dict[int, Future] = {}  # the calls without an answer, by number
        self.asked: list[Call] = []
        self.closes = 0  # the number of calls that close the iterators

    def submit(self, function, *args):
        if not args:
            self.closes += 1
            return Future()
        (call,) = args
        self.calls[call.number] = Future()
        self.asked.append(call)
        return self.calls[call.number]

    async def answer(self, number: int, *messages: FromWorker, more: bool = False):
        await self.complete(number, Answer(number, messages, more))

    async def complete(self, number: int, result: object):
        self.calls.pop(number).set_result(result)
        await self.turns()

    async def fail(self, number: int, error: BaseException):
        self.calls.pop(number).set_exception(error)
        await self.turns()

    async def turns(self):
        for _ in range(3):  # rounds of the loop until the transport has the answer
            await asyncio.sleep(0)


class Heard:
    def __init__(self):
        self.messages: list[FromWorker] = []
        self.deaths = []

    def received(self, messages):
        self.messages += messages

    def died(self, death):
        self.deaths.append(death)


async def running(credit: int = 9) -> tuple[PullTransport, ByHand, Heard]:
    """Return a transport with a running worker and one pending call, which carried the credit."""
    executor, heard = ByHand(), Heard()
    transport = PullTransport(executor, heard)
    transport.launch(SETUP, start())
    await executor.answer(0, Hello(1))
    transport.credit(Credit(1, 0, credit))
    transport.flush()
    return transport, executor, heard


async def three_ahead() -> tuple[PullTransport, ByHand, Heard]:
    """Return a transport with a running worker and the pending calls 2, 3 and 4."""
    transport, executor, heard = await running()
    await executor.answer(1, item(0), more=True)
    assert list(executor.calls) == [2, 3, 4]
    heard.messages.clear()
    return transport, executor, heard


@pytest.mark.both_loops
async def test_the_first_call_sets_the_worker_up_and_starts_it():
    _, executor, heard = await running()
    assert executor.asked == [Call(0, (SETUP, start())), Call(1, (Credit(1, 0, 9),))]
    assert heard.messages == [Hello(1)]


@pytest.mark.both_loops
async def test_answers_are_taken_in_the_order_of_submission_whatever_order_they_come_in():
    _, executor, heard = await three_ahead()
    await executor.answer(4, item(3))
    await executor.answer(3, item(2))
    assert heard.messages == []
    await executor.answer(2, item(1))
    assert heard.messages == [item(1), item(2), item(3)]


@pytest.mark.both_loops
async def test_calls_are_kept_ahead_while_credit_is_left_in_the_worker():
    _, executor, _ = await three_ahead()
    assert executor.asked[2:] == [Call(2, ()), Call(3, ()), Call(4, ())]
    await executor.answer(2, item(1), more=True)
    assert list(executor.calls) == [3, 4, 5]
    await executor.answer(3, *map(item, range(2, 9)))
    await executor.answer(4)
    await executor.answer(5)
    assert executor.calls == {}  # another call would have nothing to draw


@pytest.mark.both_loops
async def test_credit_that_another_call_brings_needs_no_further_call():
    transport, executor, _ = await running(credit=1)
    transport.credit(Credit(1, 0, 2))
    transport.flush()
    await executor.answer(1, item(0))
    assert list(executor.calls) == [2]


@pytest.mark.both_loops
async def test_credit_waits_for_a_call_if_enough_are_under_way_and_goes_all_with_the_next():
    transport, executor, _ = await three_ahead()
    for upto in (10, 11):
        transport.credit(Credit(1, 0, upto))
        transport.flush()
    assert list(executor.calls) == [2, 3, 4]
    await executor.answer(2, item(1))
    assert executor.asked[-1] == Call(5, (Credit(1, 0, 11),))


@pytest.mark.both_loops
async def test_a_call_that_only_replayed_is_followed_by_another():
    _, executor, _ = await running()
    await executor.answer(1, Replaying(1, 0), more=True)
    assert list(executor.calls) == [2, 3, 4]


async def test_after_a_stop_nothing_is_drawn_before_the_next_run():
    transport, executor, _ = await three_ahead()
    transport.credit(Credit(1, 0, 10))
    transport.stop(Stop(1))
    assert transport.drawing == (0, 1)
    for number in (2, 3, 4):
        await executor.answer(number, Replaying(1, 0), more=True)
    assert executor.asked[5:] == [Call(5, (Stop(1),))]
    await executor.answer(5, Final(1))
    assert transport.drawing is None
    transport.start(start(2))
    await executor.answer(6)
    assert executor.calls == {}
    transport.credit(Credit(2, 0, 3))
    transport.flush()
    assert executor.asked[6:] == [Call(6, (start(2),)), Call(7, (Credit(2, 0, 3),))]


async def test_after_a_failed_call_no_more_are_submitted_and_earlier_ones_still_count():
    transport, executor, heard = await three_ahead()
    await executor.fail(3, BrokenExecutor("the node is gone"))
    transport.credit(Credit(1, 0, 10))
    transport.flush()
    transport.stop(Stop(1))
    await executor.answer(4, item(2))
    assert heard.deaths == []
    await executor.answer(2, item(1), more=True)
    assert heard.messages == [item(1)]
    assert [death.reason for death in heard.deaths] == ["BrokenExecutor: the node is gone"]
    assert len(executor.asked) == 5
    assert transport.drawing == (0, 2)


async def test_calls_that_never_come_back_do_not_hide_a_failed_one(monkeypatch):
    monkeypatch.setattr(call_queue, "_GRACE_SECONDS", 0)
    _, executor, heard = await three_ahead()
    await executor.fail(3, BrokenExecutor("the node is gone"))
    await executor.turns()
    assert [death.reason for death in heard.deaths] == ["BrokenExecutor: the node is gone"]
    await executor.answer(2, item(1))  # after the death
    assert (heard.messages, len(heard.deaths)) == ([], 1)


async def test_an_exit_does_not_hide_why_a_call_was_refused():
    """A process that could not start has also ended. On Python 3.14 the loader learns of the end first."""

    class Refuses(ByHand):
        def submit(self, function, *args):
            raise BrokenExecutor("no more threads")

    faults = []
    calls = call_queue.CallQueue(Refuses(), PullRunner("tests").handle, on_answer=faults.append, on_fault=faults.append)
    calls.submit(SETUP)
    calls.fail(executor_faults.Fault("its process ended"))
    await asyncio.sleep(0)
    assert [fault.reason for fault in faults] == ["BrokenExecutor: no more threads"]


async def test_a_death_is_reported_once(monkeypatch, caplog):
    monkeypatch.setattr(call_queue, "_GRACE_SECONDS", 0)
    _, executor, heard = await three_ahead()
    for call in executor.calls.values():
        call.set_exception(BrokenExecutor("the node is gone"))
    await executor.turns()
    await executor.turns()
    assert len(heard.deaths) == 1
    assert caplog.text == ""


async def test_a_worker_that_knows_no_call_replaced_the_one_that_did():
    _, executor, heard = await three_ahead()
    for number in (2, 3, 4):
        await executor.complete(number, Refusal(number, 0, running=False))
    (death,) = heard.deaths
    assert not death.breaks_contract
    assert death.reason == (
        "call 2 reached a worker that knows none of the calls before it: the executor "
        "(tests.transports.test_pull.ByHand) replaced its worker, or has more than one. A loader needs an "
        "executor with one worker that stays"
    )


@pytest.mark.parametrize("other", [Answer(3, (), more=False), Refusal(3, 2, running=False)])
async def test_two_workers_that_take_calls_in_turns_are_one_too_many(other):
    _, executor, heard = await three_ahead()
    await executor.complete(2, Refusal(2, 0, running=False))
    await executor.complete(3, other)
    await executor.complete(4, Refusal(4, 0, running=False))
    (death,) = heard.deaths
    assert death.breaks_contract
    assert "made call 2 in another worker than the calls around it" in death.reason


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "returned None for call 2, which its worker did not"),
        (Answer(3, (), more=False), "returned the result of call 3 for call 2"),
    ],
)
async def test_a_result_that_is_not_the_calls_own_is_no_answer(result, text):
    _, executor, heard = await three_ahead()
    await executor.complete(2, result)
    await executor.answer(3)
    await executor.answer(4)
    (death,) = heard.deaths
    assert death.breaks_contract
    assert text in death.reason


async def test_a_transport_that_is_closed_takes_nothing_more(caplog):
    transport, executor, heard = await three_ahead()
    await executor.fail(3, BrokenExecutor())
    await transport.aclose()
    assert executor.closes == 0  # the executor may be dead, so the transport makes no call
    await executor.fail(2, ConnectionError())
    await executor.answer(4, item(3))
    assert (heard.messages, heard.deaths, caplog.text) == ([], [], "")


async def test_a_transport_whose_worker_lives_has_its_iterators_closed(monkeypatch):
    monkeypatch.setattr(worker_end, "CLOSE_GRACE", 0)
    transport, executor, _ = await three_ahead()
    await transport.aclose()
    assert executor.closes == 1


async def test_a_call_that_was_cancelled_is_the_end_of_its_executor():
    _, executor, heard = await three_ahead()
    for call in executor.calls.values():
        call.cancel()
    await executor.turns()
    assert [death.reason for death in heard.deaths] == ["BrokenExecutor: its executor was shut down"]


async def test_a_worker_that_never_answered_is_not_asked_to_close_its_iterators():
    executor = ByHand()
    transport = PullTransport(executor, Heard())
    transport.launch(SETUP, start())
    await transport.aclose()
    assert executor.closes == 0


async def test_the_first_submit_to_an_executor_of_others_does_not_block_the_loop():
    threads = []

    class Foreign(ThreadPoolExecutor):
        def submit(self, function, /, *args):
            threads.append(threading.current_thread())
            return super().submit(function, *args)

    assert await rest(AsyncPrefetcher(Count(3), workers=lambda worker: Foreign(1))) == [0, 1, 2]
    assert threads[0] is not threading.main_thread()
    assert set(threads[1:]) == {threading.main_thread()}


async def test_a_first_submit_that_raises_is_an_error():
    class Refuses(ThreadPoolExecutor):
        def submit(self, function, /, *args):
            raise ConnectionError("no cluster")

    with pytest.raises(WorkerDiedError, match="worker 0 died: ConnectionError: no cluster"):
        await rest(AsyncPrefetcher(Count(3), workers=lambda worker: Refuses(1)))


async def test_an_executor_that_can_not_be_shut_down_is_left_to_itself(monkeypatch, caplog):
    monkeypatch.setattr(executor_life, "CLOSE_GRACE", 0)
    going_on = threading.Event()

    class Busy(InlineExecutor):
        def shutdown(self, *args, **kwargs):
            going_on.wait(10)

    async with AsyncPrefetcher(Count(3), workers=lambda worker: Busy()):
        pass
    assert "an executor is still busy; it was left to itself" in caplog.text
    going_on.set()


async def test_an_error_in_shutting_an_executor_down_is_logged(caplog):
    class Refuses(InlineExecutor):
        def shutdown(self, *args, **kwargs):
            raise ConnectionError("no route")

    async with AsyncPrefetcher(Count(3), workers=lambda worker: Refuses()) as loader:
        assert await anext(loader) == 0
    assert "shutting an executor down raised" in caplog.text
    assert "no route" in caplog.text


async def test_a_process_whose_call_failed_is_ended_and_started_again(caplog):
    class Fails(ProcessExecutor):
        def submit(self, function, /, *args, **kwargs):
            future = super().submit(function, *args, **kwargs)
            if not args or args[0].number < 3:
                return future
            failed: Future = Future()
            failed.set_exception(ConnectionError("a lost message"))
            return failed

    executors = [ProcessExecutor, Fails]
    async with asyncio.timeout(20):
        loader = AsyncPrefetcher(Count(20), workers=lambda worker: executors.pop()())
        assert await rest(loader) == list(range(20))
    assert loader.statistics().restarts == 1
    assert "died: ConnectionError: a lost message" in caplog.text


async def test_an_error_that_is_the_executors_own_is_logged(caplog):
    _, executor, heard = await three_ahead()
    await executor.fail(2, ConnectionError("no route"))
    for number in (3, 4):
        await executor.fail(number, ConnectionError("and again"))
    assert [death.reason for death in heard.deaths] == ["ConnectionError: no route"]
    assert caplog.text.count("an executor failed with an error of its own") == 1
