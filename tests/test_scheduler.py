from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inside import AsReady, InOrder
from tests.pipelines.counting import in_turns


def new(in_order, count, n, ahead=None, due=0):
    shards = list(range(count))
    scheduler = InOrder(shards, ahead or {}, n, due) if in_order else AsReady(shards, ahead or {}, n)
    for shard in shards:
        scheduler.enable(shard)
    return scheduler


def grant(scheduler):
    """Return the shards that get credit, once for each batch."""
    return [shard for shard, batches in scheduler.grant() for _ in range(batches)]


def test_in_order_credit_goes_to_batches_as_they_fall_due():
    assert grant(new(True, 3, 5)) == [0, 1, 2, 0, 1]
    assert grant(new(True, 3, 5, due=2)) == [2, 0, 1, 2, 0]
    assert grant(new(True, 3, 4, ahead={0: 2}, due=0)) == [1, 2]


def test_fewer_credits_than_shards_are_enough():
    scheduler = new(True, 4, 1)
    order = []
    for _ in range(8):
        (shard,) = grant(scheduler)
        assert shard == scheduler.due
        order.append(shard)
        scheduler.delivered(shard)
    assert order == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_due_shard_with_nothing_ahead_gets_one_credit_more():
    scheduler = new(True, 2, 2, ahead={1: 5})
    assert grant(scheduler) == [0]
    assert scheduler.ahead == 6
    assert grant(scheduler) == []


def test_out_of_order_credit_is_dealt_evenly():
    scheduler = new(False, 3, 7)
    assert grant(scheduler) == [0, 1, 2, 0, 1, 2, 0]
    scheduler.delivered(1)
    scheduler.delivered(1)
    assert grant(scheduler) == [1, 1]


def test_out_of_order_every_shard_gets_its_turn_with_one_credit():
    scheduler = new(False, 3, 1)
    order = []
    for _ in range(6):
        (shard,) = grant(scheduler)
        order.append(shard)
        scheduler.delivered(shard)
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_closed_shard_gives_its_credit_back_and_gets_none():
    scheduler = new(True, 2, 4)
    assert grant(scheduler) == [0, 1, 0, 1]
    scheduler.disable(0, 2)
    assert scheduler.ahead == 2
    assert grant(scheduler) == [1, 1]
    scheduler.enable(0)
    assert grant(scheduler) == [0]  # the shard is due and has no batch ahead


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    n=st.integers(1, 8),
    in_order=st.booleans(),
    data=st.data(),
)
def test_any_order_of_arrival_gives_the_promised_order_within_the_bound(lengths, n, in_order, data):
    """A model of the whole loader without I/O: shards produce at any time within their credit."""
    scheduler = new(in_order, len(lengths), n)
    granted = deque(grant(scheduler))
    queues = {shard: deque() for shard in range(len(lengths))}
    arrived = deque()  # without ``in_order``, all shards share one queue
    made = dict.fromkeys(queues, 0)
    got = []
    while scheduler.active:
        due = scheduler.due
        queue = queues[due] if in_order else arrived
        if granted and (not queue or data.draw(st.booleans())):
            index = data.draw(st.integers(0, len(granted) - 1))
            shard = granted[index]
            del granted[index]
            if made[shard] < lengths[shard]:
                entry = (shard, made[shard])
                made[shard] += 1
            else:
                entry = (shard, None)
                unused = 1 + granted.count(shard)
                granted = deque(s for s in granted if s != shard)
                scheduler.disable(shard, unused)
            (queues[shard] if in_order else arrived).append(entry)
        else:
            assert queue, "a shard is due and has nothing, and no credit was given for it"
            shard, item = queue.popleft()
            if item is None:
                scheduler.dropped(shard)
            else:
                scheduler.delivered(shard)
                got.append((shard, item))
        granted.extend(grant(scheduler))
        assert scheduler.ahead <= n + 1
    expected = in_turns([[(s, i) for i in range(length)] for s, length in enumerate(lengths)])
    if in_order:
        assert got == expected
    for shard, length in enumerate(lengths):
        assert [i for s, i in got if s == shard] == list(range(length))


def test_a_shard_that_drops_out_before_the_turn_does_not_shift_it():
    scheduler = new(True, 3, 3, due=2)
    scheduler.dropped(0)
    assert scheduler.due == 2
    scheduler.delivered(2)
    assert scheduler.due == 1


@pytest.mark.parametrize("in_order", [True, False])
def test_without_shards_no_credit_is_granted(in_order):
    scheduler = new(in_order, 1, 3)
    scheduler.dropped(0)
    assert scheduler.active == []
    assert grant(scheduler) == []
