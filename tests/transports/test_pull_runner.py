"""The worker's side of the pull transport: the order of calls, and the number of items that each draws."""

from __future__ import annotations

import pickle
import threading

import pytest

from asyncprefetch import register
from asyncprefetch.iterators import from_iterable
from tests.inside import (
    Answer,
    Call,
    Credit,
    EndOfShard,
    Final,
    Hello,
    Item,
    PullRunner,
    Refusal,
    Replaying,
    Setup,
    SetupFailed,
    ShardStart,
    Start,
    State,
    Stop,
    fingerprint,
    pull_runner,
)
from tests.inside import producer as producer_module
from tests.inside import shard as shard_module
from tests.pipelines.counting import Count
from tests.pipelines.reporting import fail_to_initialize

SECONDS, BYTES = 0.005, 64 << 10


@pytest.fixture(autouse=True)
def no_states_between_items(monkeypatch):
    monkeypatch.setattr(shard_module, "_MIN_STATE_INTERVAL", 3600)


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    now = [0.0]
    monkeypatch.setattr(pull_runner.time, "monotonic", lambda: now[0])
    return now


class Caller:
    """Makes numbered calls to a runner."""

    def __init__(self, *iterators, skip=()):
        self.runner = PullRunner("tests")
        self.number = 0
        shards = {n: ShardStart(pickle.dumps(it.get_state()), 0, skip) for n, it in enumerate(iterators)}
        assert [type(message) for message in self.call(Setup(0, None), Start(1, shards)).messages] == [Hello]

    def call(self, *messages) -> Answer:
        result = self.runner.handle(Call(self.number, messages))
        assert isinstance(result, Answer)
        assert result.number == self.number
        self.number += 1
        return result

    def drawn(self, *messages) -> list[tuple[int, int]]:
        """Make a call, and return the shards and positions of its items."""
        return [(item.shard, item.position) for item in self.call(*messages).messages if isinstance(item, Item)]


def test_only_the_call_that_is_due_is_done_and_another_changes_nothing():
    caller = Caller(Count(9))
    for number in (0, 2, 9):
        assert caller.runner.handle(Call(number, (Credit(1, 0, 9),))) == Refusal(number, 1, running=False)
    assert caller.drawn() == []
    assert caller.drawn(Credit(1, 0, 1)) == [(0, 0)]


started, going_on = threading.Event(), threading.Event()


@register("tests.pull_runner.waits")
def waits():
    started.set()
    going_on.wait(10)
    yield 1


def test_a_call_is_refused_while_another_is_running():
    for event in (started, going_on):
        event.clear()
    caller = Caller(from_iterable(waits))
    answers = []
    thread = threading.Thread(target=lambda: answers.append(caller.call(Credit(1, 0, 1))))
    thread.start()
    started.wait(10)
    assert caller.runner.handle(Call(1, ())) == Refusal(1, 1, running=True)
    assert caller.runner.handle(Call(2, ())) == Refusal(2, 1, running=True)
    going_on.set()
    thread.join(10)
    assert [type(message) for message in answers[0].messages] == [Item]


def test_an_initializer_that_fails_ends_the_first_call_with_its_error():
    runner = PullRunner("tests")
    setup = Setup(0, pickle.dumps(fail_to_initialize))
    answer = runner.handle(Call(0, (setup, Start(1, {0: ShardStart(b"", 0, ())}))))
    assert [type(message) for message in answer.messages] == [SetupFailed]


def test_a_call_draws_one_item_more_for_each_eight_that_were_drawn_without_a_pause(clock):
    caller = Caller(Count(1000))
    sizes = [len(caller.drawn(Credit(1, 0, 1000))) for _ in range(22)]
    assert sizes == [1] * 16 + [2] * 4 + [3] * 2


def test_a_slow_item_makes_the_following_calls_small_again(clock, monkeypatch):
    draw = producer_module.Producer.draw

    def slow_at_40(producer, credit):
        clock[0] += SECONDS if producer._shards[0].position == 40 else 0
        return draw(producer, credit)

    monkeypatch.setattr(producer_module.Producer, "draw", slow_at_40)
    caller = Caller(Count(1000))
    calls = []
    while (0, 40) not in (drawn := caller.drawn(Credit(1, 0, 1000))):
        calls.append(len(drawn))
    assert calls[-1] > 1
    assert drawn[-1] == (0, 40)  # the slow item ended its call
    assert [len(caller.drawn()) for _ in range(16)] == [1] * 16


def steady(*iterators) -> Caller:
    """Return a caller whose runner may draw a thousand items in a call."""
    caller = Caller(*iterators)
    caller.runner._steady = 8000
    return caller


def test_a_call_returns_after_its_time_slice(clock, monkeypatch):
    draw = producer_module.Producer.draw

    def timed(producer, credit):
        clock[0] += 0.0011
        return draw(producer, credit)

    monkeypatch.setattr(producer_module.Producer, "draw", timed)
    caller = steady(Count(1000))
    assert [len(caller.drawn(Credit(1, 0, 900))) for _ in range(3)] == [5, 5, 5]


def test_a_call_returns_after_so_many_bytes(clock):
    caller = steady(Count(100, items="array:<i8:3000"))  # 24 kB each
    assert [len(caller.drawn(Credit(1, 0, 90))) for _ in range(3)] == [3, 3, 3]


def test_credit_is_worked_off_in_the_order_in_which_it_was_granted_over_all_calls(clock):
    caller = Caller(Count(9), Count(9))
    granted = [Credit(1, 0, 1), Credit(1, 1, 1), Credit(1, 0, 2), Credit(1, 1, 3)]
    assert caller.drawn(*granted) == [(0, 0)]
    assert [caller.drawn() for _ in range(5)] == [[(1, 0)], [(0, 1)], [(1, 1)], [(1, 2)], []]


def test_an_answer_says_whether_credit_is_left(clock):
    caller = Caller(Count(3), Count(9))
    assert [caller.call(Credit(1, 0, 2)).more, caller.call().more, caller.call().more] == [True, False, False]
    assert caller.call(Credit(1, 0, 9), Credit(1, 1, 1)).more
    end = caller.call()
    assert [type(message) for message in end.messages] == [State, EndOfShard]
    assert end.more  # credit of the other shard
    assert not caller.call().more


def test_a_replay_takes_one_piece_a_call(clock, monkeypatch):
    monkeypatch.setattr(shard_module, "_REPLAY_PIECE", 0)
    caller = Caller(Count(9), skip=tuple(map(fingerprint, range(2))))
    first = caller.call(Credit(1, 0, 3))
    assert (first.messages, first.more) == ([Replaying(1, 0)], True)
    assert caller.drawn() == [(0, 2)]


def test_a_stop_ends_the_credit_of_its_run(clock):
    caller = Caller(Count(9))
    assert caller.call(Credit(1, 0, 9)).more
    stopped = caller.call(Stop(1))
    assert (stopped.messages[-1], stopped.more) == (Final(1), False)
    start = Start(2, {0: ShardStart(pickle.dumps(Count(9, position=1).get_state()), 1, ())})
    assert caller.call(start).messages == []
    assert caller.drawn(Credit(2, 0, 2)) == [(0, 1)]


def test_a_pickled_runner_is_the_one_of_its_process():
    here = pickle.loads(pickle.dumps(PullRunner("a key")))
    try:
        assert pickle.loads(pickle.dumps(PullRunner("a key"))) is here
        assert pickle.loads(pickle.dumps(PullRunner("another key"))) is not here
    finally:
        pull_runner._runners.clear()
