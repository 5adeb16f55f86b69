"""The states of slots, compared with a model that has a list for each state."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inside import Segment, Slots, SlotState

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd_create")

N_SLOTS = 4
ACTIONS = st.tuples(st.sampled_from(["fill", "fill", "release", "keep", "drop", "reclaim", "trim"]), st.integers(0, 3))


def some(slots, n):
    """Return a list with the slot that the number selects, or an empty list if there are no slots."""
    slots = list(slots)
    return [slots[n % len(slots)]] if slots else []


class Model:
    """The slots in each state, in order. Each action applies to the model and to the real slots."""

    def __init__(self, segment):
        self.segment = segment
        self.slots = Slots(segment)
        self.cold = list(range(N_SLOTS - 1, -1, -1))
        self.free, self.current, self.sent, self.parked = [], [], [], []
        self.kept = {}

    def check(self):
        lists = [self.cold, self.free, self.current, self.sent, self.parked]
        expected = {slot: state for state, slots in zip(SlotState, lists, strict=True) for slot in slots}
        assert {slot: self.slots.state(slot) for slot in range(N_SLOTS)} == expected
        assert self.slots.n_free == len(self.free)

    def fill(self, n):
        """Take a slot, or send the slot that was taken."""
        if self.current:
            self.slots.send(self.current[0])
            self.sent.append(self.current.pop())
            return
        expected = self.free.pop() if self.free else self.cold.pop() if self.cold else None
        assert self.slots.take() == expected
        if expected is not None:
            self.current.append(expected)
            np.frombuffer(self.segment.owner(expected), np.uint8, 1)[0] = 1

    def keep(self, n):
        for slot in some(self.sent + self.current, n):
            self.kept[slot] = np.frombuffer(self.segment.owner(slot), np.uint8, 1)

    def drop(self, n):
        for slot in some(self.kept, n):
            del self.kept[slot]

    def release(self, n):
        for slot in some(self.sent, n):
            self.sent.remove(slot)
            assert self.slots.release(slot) == (slot not in self.kept)
            (self.parked if slot in self.kept else self.free).append(slot)

    def reclaim(self, n):
        reclaimed = sorted(slot for slot in self.parked if slot not in self.kept)
        assert self.slots.reclaim() == reclaimed
        self.parked = [slot for slot in self.parked if slot in self.kept]
        self.free += reclaimed

    def trim(self, n):
        self.slots.trim(n)
        while len(self.free) > n:
            self.cold.append(self.free.pop(0))
        with_memory = N_SLOTS - len(self.cold)
        assert self.segment.mapped == with_memory * 4096


@settings(max_examples=200)
@given(st.lists(ACTIONS, max_size=40))
def test_slots_are_in_the_states_that_follow_from_what_happened(actions):
    segment = Segment.create(N_SLOTS)
    model = Model(segment)
    for action, n in actions:
        getattr(model, action)(n)
        model.check()
    segment.retire()
