from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inside import AsReady, InOrder
from tests.pipelines import in_turns


def new(in_order, count, n, ahead=None, due=0):
    shards = list(range(count))
    rotation = InOrder(shards, ahead or {}, n, due) if in_order else AsReady(shards, ahead or {}, n)
    for shard in shards:
        rotation.open(shard)
    return rotation


def test_in_order_credit_goes_to_batches_as_they_fall_due():
    assert new(True, 3, 5).grant() == [0, 1, 2, 0, 1]
    assert new(True, 3, 5, due=2).grant() == [2, 0, 1, 2, 0]
    assert new(True, 3, 4, ahead={0: 2}, due=0).grant() == [1, 2]


def test_fewer_credits_than_shards_are_enough():
    rotation = new(True, 4, 1)
    order = []
    for _ in range(8):
        (shard,) = rotation.grant()
        assert shard == rotation.due
        order.append(shard)
        rotation.delivered(shard)
    assert order == [0, 1, 2, 3, 0, 1, 2, 3]


def test_a_due_shard_with_nothing_ahead_gets_one_credit_more():
    rotation = new(True, 2, 2, ahead={1: 5})
    assert rotation.grant() == [0]
    assert rotation.ahead == 6
    assert rotation.grant() == []


def test_out_of_order_credit_is_dealt_evenly():
    rotation = new(False, 3, 7)
    assert rotation.grant() == [0, 1, 2, 0, 1, 2, 0]
    rotation.delivered(1)
    rotation.delivered(1)
    assert rotation.grant() == [1, 1]


def test_out_of_order_every_shard_gets_its_turn_with_one_credit():
    rotation = new(False, 3, 1)
    order = []
    for _ in range(6):
        (shard,) = rotation.grant()
        order.append(shard)
        rotation.delivered(shard)
    assert order == [0, 1, 2, 0, 1, 2]


def test_a_closed_shard_gives_its_credit_back_and_gets_none():
    rotation = new(True, 2, 4)
    assert rotation.grant() == [0, 1, 0, 1]
    rotation.close(0, 2)
    assert rotation.ahead == 2
    assert rotation.grant() == [1, 1]
    rotation.open(0)
    assert rotation.grant() == [0]  # due, with nothing ahead


@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    n=st.integers(1, 8),
    in_order=st.booleans(),
    data=st.data(),
)
def test_any_order_of_arrival_gives_the_promised_order_within_the_bound(lengths, n, in_order, data):
    """A model of the whole loader without I/O: shards produce when they like, within their credit."""
    rotation = new(in_order, len(lengths), n)
    granted = deque(rotation.grant())
    lanes = {shard: deque() for shard in range(len(lengths))}
    arrived = deque()  # out of order, one lane for all
    made = dict.fromkeys(lanes, 0)
    got = []
    while rotation.active:
        due = rotation.due
        lane = lanes[due] if in_order else arrived
        if granted and (not lane or data.draw(st.booleans())):
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
                rotation.close(shard, unused)
            (lanes[shard] if in_order else arrived).append(entry)
        else:
            assert lane, "a shard is due, has nothing, and nobody has credit for it"
            shard, item = lane.popleft()
            if item is None:
                rotation.dropped(shard)
            else:
                rotation.delivered(shard)
                got.append((shard, item))
        granted.extend(rotation.grant())
        assert rotation.ahead <= n + 1
    expected = in_turns([[(s, i) for i in range(length)] for s, length in enumerate(lengths)])
    if in_order:
        assert got == expected
    for shard, length in enumerate(lengths):
        assert [i for s, i in got if s == shard] == list(range(length))


def test_a_shard_that_drops_out_before_the_turn_does_not_shift_it():
    rotation = new(True, 3, 3, due=2)
    rotation.dropped(0)
    assert rotation.due == 2
    rotation.delivered(2)
    assert rotation.due == 1


@pytest.mark.parametrize("in_order", [True, False])
def test_without_shards_nobody_gets_credit(in_order):
    rotation = new(in_order, 1, 3)
    rotation.dropped(0)
    assert rotation.active == []
    assert rotation.grant() == []
