"""Which slots of the shared memory can be used next: one table of states, and the order in which unused slots are taken.

         take()                send()              release()
COLD  ----------->  CURRENT  --------->  SENT  ----------------->  FREE
  ^                    ^                   |                        | ^
  |                    +-------------------|------- take() ---------+ |
  |                                        | release(), in use here   |
  |                                        +--> PARKED -- reclaim() --+
  +------------------------------- trim() --------------------------- FREE
"""

from __future__ import annotations

import enum

from asyncprefetch._wire.shared_memory import Segment


class SlotState(enum.Enum):
    """What a slot is used for."""

    COLD = "it has no memory"
    FREE = "it has memory, and nothing lies on it"
    CURRENT = "the next item is being made on it"
    SENT = "the loader has it"
    PARKED = "the loader has released it, but the iterator still refers to arrays on it"


_COLD, _FREE, _CURRENT, _SENT, _PARKED = SlotState


class Slots:
    """The states of a segment's slots."""

    def __init__(self, segment: Segment) -> None:
        self._segment = segment
        self._states = [_COLD] * segment.slots
        # Taken from the end: first the free slots, the one that was used last before the others, because its pages are warm;
        # then the cold ones.
        self._unused = list(range(segment.slots - 1, -1, -1))
        self._n_free = 0
        self._n_parked = 0

    def state(self, slot: int) -> SlotState:
        """The slot's state."""
        return self._states[slot]

    @property
    def n_free(self) -> int:
        """How many slots have memory and nothing on it."""
        return self._n_free

    def take(self) -> int | None:
        """Make the next unused slot the current one; ``None`` if every slot is in use."""
        if not self._unused:
            return None
        slot = self._unused.pop()
        if self._n_free:
            self._n_free -= 1
        self._states[slot] = _CURRENT
        return slot

    def send(self, slot: int) -> None:
        """The current slot goes to the loader."""
        self._states[slot] = _SENT

    def release(self, slot: int) -> bool:
        """The loader gives a slot back. True if it is free now, false if it is parked."""
        if self._segment.in_use(slot):
            self._states[slot] = _PARKED
            self._n_parked += 1
            return False
        self._make_free(slot)
        return True

    def reclaim(self) -> list[int]:
        """Free the parked slots that the iterator no longer refers to. Return them."""
        if not self._n_parked:
            return []
        in_use = self._segment.in_use
        reclaimed = [slot for slot, state in enumerate(self._states) if state is _PARKED and not in_use(slot)]
        for slot in reclaimed:
            self._n_parked -= 1
            self._make_free(slot)
        return reclaimed

    def trim(self, keep: int) -> None:
        """Give the memory of free slots back to the system, except for ``keep`` of them: those that were used last."""
        while self._n_free > keep:
            slot = self._unused[-self._n_free]
            self._segment.give_back(slot)
            self._states[slot] = _COLD
            self._n_free -= 1

    def _make_free(self, slot: int) -> None:
        self._states[slot] = _FREE
        self._unused.append(slot)
        self._n_free += 1
