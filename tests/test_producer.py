"""The worker's side of the protocol, driven by hand: credit, stop, runs, live iterators."""

import pickle
from concurrent.futures import BrokenExecutor

import pytest

from asyncprefetch import register
from asyncprefetch.iterators import from_iterable
from tests.inside import (
    Collecting,
    Credit,
    EndOfShard,
    Failed,
    Final,
    Hello,
    Item,
    Replaying,
    Setup,
    ShardStart,
    Start,
    State,
    Stop,
    Tally,
    counters,
    fingerprint,
    item_pickler,
    user_code,
)
from tests.inside import producer as producer_module
from tests.inside import shard as shard_module
from tests.pipelines.counting import Count
from tests.pipelines.failing import Fail


@register("tests.producer.counting")
def counting():
    for n in range(9):
        counters.add("seen")
        yield n


class Driven:
    """A producer that handles one message at a time, and the messages that it sends in return."""

    def __init__(self):
        self.sent = Collecting()
        self.producer = producer_module.Producer(self.sent)

    def handle(self, message):
        if isinstance(message, Credit):
            return self.draw(message)
        self.producer.handle(message)
        return self.sent.take()

    def draw(self, credit):
        """Draw all items for which there is credit, or one piece of a replay."""
        answers = []
        while self.producer.draw(credit):
            answers += self.sent.take()
            if isinstance(answers[-1], Replaying):
                return answers
        return answers + self.sent.take()


@pytest.fixture
def producer(monkeypatch):
    monkeypatch.setattr(shard_module, "_MIN_STATE_INTERVAL", 3600)
    producer = Driven()
    assert [type(answer) for answer in producer.handle(Setup(0, None))] == [Hello]
    return producer


def begin(iterator, position=0, skip=()):
    return ShardStart(pickle.dumps(iterator.get_state()), position, skip)


def items(answers):
    assert all(isinstance(answer, Item) for answer in answers)
    return [item_pickler.loads(answer.payload.frame) for answer in answers]


def test_an_item_is_drawn_only_when_there_is_credit(producer):
    assert producer.handle(Start(1, {0: begin(Count(9))})) == []
    assert items(producer.handle(Credit(1, 0, 2))) == [0, 1]
    assert producer.handle(Credit(1, 0, 2)) == []  # credit is absolute, so repeating it adds nothing
    assert items(producer.handle(Credit(1, 0, 3))) == [2]


def test_credit_of_another_run_or_shard_is_nothing(producer):
    producer.handle(Start(2, {0: begin(Count(9))}))
    assert producer.handle(Credit(1, 0, 2)) == []
    assert producer.handle(Credit(2, 7, 2)) == []
    assert producer.handle(Stop(1)) == []


def test_a_stop_gives_a_state_of_every_shard_that_was_begun_and_the_final_sentinel(producer):
    producer.handle(Start(1, {0: begin(Count(9)), 1: begin(Count(9, 100))}))
    producer.handle(Credit(1, 1, 3))
    state, final = producer.handle(Stop(1))
    assert (type(state), state.shard, state.position) == (State, 1, 3)
    assert pickle.loads(state.state).position == 3
    assert final == Final(1)


def test_the_end_of_a_shard_comes_with_its_state(producer):
    producer.handle(Start(1, {0: begin(Count(1))}))
    item, state, end = producer.handle(Credit(1, 0, 5))
    assert items([item]) == [0]
    assert (type(state), state.position) == (State, 1)
    assert end == EndOfShard(1, 0, 1)
    assert producer.handle(Credit(1, 0, 6)) == []
    assert producer.handle(Stop(1)) == [Final(1)]


def test_a_live_iterator_serves_the_next_run_only_if_it_is_where_the_parent_wants_it(producer):
    producer.handle(Start(1, {0: begin(Count(9))}))
    producer.handle(Credit(1, 0, 3))
    live = producer.producer._shards[0]
    producer.handle(Start(2, {0: begin(Count(9, 100, position=3), 3)}))  # another state at the same position
    assert producer.producer._shards[0] is live
    assert items(producer.handle(Credit(2, 0, 4))) == [3]
    producer.handle(Start(3, {0: begin(Count(9, position=2), 2)}))
    assert producer.producer._shards[0] is not live
    assert items(producer.handle(Credit(3, 0, 4))) == [2, 3]


def test_what_was_received_before_is_skipped_and_compared(producer):
    producer.handle(Start(1, {0: begin(Count(9), 0, (fingerprint(0), fingerprint(1)))}))
    assert items(producer.handle(Credit(1, 0, 3))) == [2]
    producer.handle(Start(2, {0: begin(Count(9), 0, (fingerprint(0), fingerprint(5)))}))
    (failed,) = producer.handle(Credit(2, 0, 3))
    assert (type(failed), failed.error.phase, failed.position) == (Failed, "replay", 2)
    assert "another item came at position 1" in failed.error.text
    producer.handle(Start(3, {0: begin(Count(1), 0, (fingerprint(0), fingerprint(1)))}))
    (failed,) = producer.handle(Credit(3, 0, 3))
    assert "the iterator ended at position 1" in failed.error.text


def test_a_replay_is_made_in_pieces_and_each_answer_says_that_it_goes_on(producer, monkeypatch):
    monkeypatch.setattr(shard_module, "_REPLAY_PIECE", 0)
    producer.handle(Start(1, {0: begin(Count(9), 0, tuple(map(fingerprint, range(3))))}))
    assert producer.handle(Credit(1, 0, 4)) == [Replaying(1, 0)]
    assert producer.handle(Credit(1, 0, 5)) == [Replaying(1, 0)]
    assert items(producer.handle(Credit(1, 0, 5))) == [3, 4]
    assert producer.handle(Credit(1, 0, 4)) == []


def test_counts_from_outside_of_a_draw_are_not_sent():
    """These counts belong to the program, which may run in the same thread."""
    outlet = Collecting()
    producer = producer_module.Producer(outlet)
    producer.handle(Setup(0, None))
    producer.handle(Start(1, {0: begin(from_iterable(counting))}))
    outlet.take()
    counters.add("outside")
    assert producer.draw(Credit(1, 0, 1))
    assert outlet.take()[0] == Tally({"seen": 1})


def test_counts_from_every_piece_of_a_replay_are_sent(producer, monkeypatch):
    monkeypatch.setattr(shard_module, "_REPLAY_PIECE", 0)
    producer.handle(Start(1, {0: begin(from_iterable(counting), 0, tuple(map(fingerprint, range(3))))}))
    assert producer.handle(Credit(1, 0, 4)) == [Tally({"seen": 1}), Replaying(1, 0)]
    assert producer.handle(Credit(1, 0, 4)) == [Tally({"seen": 1}), Replaying(1, 0)]
    assert producer.handle(Credit(1, 0, 4))[0] == Tally({"seen": 2})


def test_a_stop_in_the_middle_of_a_replay_gives_no_state_and_the_next_run_goes_on_with_it(producer, monkeypatch):
    monkeypatch.setattr(shard_module, "_REPLAY_PIECE", 0)
    start = begin(Count(9), 0, tuple(map(fingerprint, range(3))))
    producer.handle(Start(1, {0: start}))
    producer.handle(Credit(1, 0, 4))
    live = producer.producer._shards[0]
    assert producer.handle(Stop(1)) == [Final(1)]
    producer.handle(Start(2, {0: start}))
    assert producer.producer._shards[0] is live
    assert producer.handle(Credit(2, 0, 4)) == [Replaying(2, 0)]
    assert items(producer.handle(Credit(2, 0, 4))) == [3]
    state, final = producer.handle(Stop(2))
    assert (state.position, pickle.loads(state.state).position, final) == (4, 4, Final(2))


def test_after_a_failure_a_shard_sends_nothing_more_and_the_others_go_on(producer):
    producer.handle(Start(1, {0: begin(Fail.make(9, 1, "KeyError")), 1: begin(Count(9))}))
    item, failed = producer.handle(Credit(1, 0, 5))
    assert items([item]) == [0]
    assert (failed.position, failed.error.type_name, failed.error.bases[1]) == (1, "KeyError", "LookupError")
    assert producer.handle(Credit(1, 0, 6)) == []
    assert items(producer.handle(Credit(1, 1, 1))) == [0]
    assert [type(answer) for answer in producer.handle(Stop(1))] == [State, Final]


def test_states_come_now_and_then(monkeypatch):
    monkeypatch.setattr(shard_module, "_MIN_STATE_INTERVAL", 0)
    monkeypatch.setattr(shard_module, "_STATE_SHARE", float("inf"))
    producer = Driven()
    producer.handle(Setup(0, None))
    producer.handle(Start(1, {0: begin(Count(3))}))
    answers = producer.handle(Credit(1, 0, 2))
    assert [type(answer) for answer in answers] == [Item, State, Item, State]
    assert [answer.position for answer in answers] == [0, 1, 1, 2]


@pytest.mark.parametrize("shards", [1, 8])
@pytest.mark.parametrize("dear", ["get_state", "sending"])
def test_states_take_at_most_one_percent_of_a_workers_time_however_expensive_they_are(monkeypatch, shards, dear):
    """An item takes 2 ms of the test's clock, and a state takes 30 ms. Waiting for the loader costs nothing."""
    now, spent, waited = [0.0], [0.0], [0.0]

    def spend():
        now[0] += 0.03
        spent[0] += 0.03

    class Timed(Count):
        def get_state(self):
            if dear == "get_state":
                spend()
            return super().get_state()

        def create_iter(self):
            for item in super().create_iter():
                now[0] += 0.002
                yield item

    class Sending(Collecting):
        def send(self, message):
            if isinstance(message, State):
                now[0] += 1.0
                waited[0] += 1.0
                if dear == "sending":
                    spend()

        def item(self, where, item):
            pass

    monkeypatch.setattr(user_code, "_build", lambda state: Timed(state.stop))
    monkeypatch.setattr(shard_module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(shard_module.time, "thread_time", lambda: now[0] - waited[0])
    producer = producer_module.Producer(Sending())
    producer.handle(Setup(0, None))
    producer.handle(Start(1, {shard: begin(Count(10**6)) for shard in range(shards)}))
    for upto in range(1, 80_000 // shards):
        for shard in range(shards):
            producer.draw(Credit(1, shard, upto))
    first = 0.03 * shards  # the cost is known only after the first state of each shard
    assert 0.005 * now[0] < spent[0] - first <= 0.01 * now[0]


def test_closing_closes_the_iterators(producer):
    closed = []

    class Closing(Count):
        def create_iter(self):
            try:
                yield from super().create_iter()
            finally:
                closed.append(self.position)

    producer.handle(Start(1, {0: begin(Count(9))}))
    shard = producer.producer._shards[0]
    shard._iterator = Closing(9)
    shard._items = shard._iterator.create_iter()
    shard._next = shard._items.__next__
    producer.handle(Credit(1, 0, 2))
    producer.producer.close()
    assert closed == [2]


@pytest.mark.parametrize("message", [Start(1, {}), Stop(1)])
def test_a_producer_that_was_not_set_up_runs_nothing(message):
    with pytest.raises(BrokenExecutor, match="not set up"):
        Driven().handle(message)
