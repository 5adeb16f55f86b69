"""What the loader knows of a shard, and where the shard can be started again.

The loader knows the last state that a worker sent, its position, and a fingerprint of every item that came after it.
``(state, skip)`` is all that a restart, a retry or a checkpoint needs: build the state, draw and discard ``skip`` items,
and compare each with its fingerprint. An iterator that replays different items is found by that.
"""

from __future__ import annotations

from collections import deque

from asyncprefetch._wire.messages import ShardStart


class Ledger:
    """What the loader knows of one shard.

    Args:
        shard: its global number.
        start: where it began in this loader.
        ended: whether its end is known already.

    Attributes:
        position: of the next item to come.
    """

    def __init__(self, shard: int, start: ShardStart, *, ended: bool = False) -> None:
        self.shard = shard
        self.ended = ended
        self.position = start.position
        self._state = start.state
        self._state_position = start.state_position
        self._fingerprints = deque(start.skip)  # of the items since the state

    def add_item(self, position: int, fingerprint: int) -> None:
        """An item came."""
        if position != self.position:
            raise RuntimeError(f"shard {self.shard}: item {position} came where {self.position} was due")
        self.position = position + 1
        self._fingerprints.append(fingerprint)

    def add_state(self, position: int, state: bytes) -> None:
        """A state came: items before it need not be replayed any more."""
        if not self._state_position <= position <= self.position:
            raise RuntimeError(f"shard {self.shard}: a state at {position}, outside of what is known")
        while self._state_position < position:
            self._fingerprints.popleft()
            self._state_position += 1
        self._state = state

    def add_end(self, position: int) -> None:
        """The shard has no item at ``position``."""
        if position != self.position:
            raise RuntimeError(f"shard {self.shard}: the end came at {position}, with {self.position} due")
        self.ended = True

    def start(self) -> ShardStart:
        """Where the shard continues. A value: what comes later does not change it."""
        return ShardStart(self._state, self._state_position, tuple(self._fingerprints))
