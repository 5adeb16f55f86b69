"""The pull transport, with a worker that is played by the test."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, Future

import pytest

from tests.inside import Credit, FromWorker, Hello, PullTransport, Replaying, Setup, ShardStart, Start, Stop


class ByHand(Executor):
    """Its calls are answered by the test."""

    starts_without_blocking = True

    def __init__(self):
        self.calls = []
        self.asked = []  # all messages, in order

    def submit(self, function, message):
        call = Future()
        self.calls.append(call)
        self.asked.append(message)
        return call

    async def answer(self, *messages: FromWorker):
        self.calls.pop(0).set_result(list(messages))
        for _ in range(3):  # rounds of the loop until the transport has it
            await asyncio.sleep(0)


class Heard:
    def __init__(self):
        self.messages = []

    def received(self, messages):
        self.messages += messages

    def died(self, death):
        raise AssertionError(death)


async def replaying() -> tuple[PullTransport, ByHand]:
    """A transport whose worker is amid a replay, with three calls for an item ahead of it."""
    executor = ByHand()
    transport = PullTransport(executor, Heard())
    start = Start(1, {0: ShardStart(b"", 0, (7, 7))})
    transport.open(Setup(0, None), start)
    await executor.answer(Hello(1))
    await executor.answer()
    transport.credit(Credit(1, 0, 9))
    executor.asked.clear()
    return transport, executor


@pytest.mark.both_loops
async def test_a_call_that_only_replayed_is_made_again():
    _, executor = await replaying()
    ahead = len(executor.calls)
    await executor.answer(Replaying(1, 0))
    assert len(executor.calls) == ahead
    assert isinstance(executor.asked[-1], Credit)


@pytest.mark.both_loops
async def test_behind_a_stop_no_item_is_asked_for():
    transport, executor = await replaying()
    transport.stop(Stop(1))
    for _ in range(len(executor.calls) - 1):
        await executor.answer(Replaying(1, 0))
    assert executor.asked == [Stop(1)]
    again = Start(2, {0: ShardStart(b"", 0, (7, 7))})
    transport.start(again)
    await executor.answer()
    await executor.answer()
    transport.credit(Credit(2, 0, 3))
    await executor.answer(Replaying(2, 0))
    assert executor.asked == [Stop(1), again, Credit(2, 0, 3), Credit(2, 0, 3)]
