"""Iterators that end their worker process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from asyncprefetch import IteratorState, Position, StatefulIterator


class DieState(IteratorState, kind="tests.die"):
    stop: int
    at: int
    how: str
    only_once: str | None = None
    position: Position[int] = 0

    def build(self) -> Die:
        return Die(self)


class Die(StatefulIterator[int]):
    """Counts, and ends its worker process at one position."""

    def __init__(self, state: DieState) -> None:
        self.state = state
        self.position = state.position

    @classmethod
    def make(cls, stop: int, at: int, how: str, only_once: str | None = None) -> Die:
        return cls(DieState(stop=stop, at=at, how=how, only_once=only_once))

    def get_state(self) -> DieState:
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        while self.position < self.state.stop:
            if self.position == self.state.at:
                self._die()
            self.position += 1
            yield self.position - 1

    def _die(self) -> None:
        if self.state.only_once is not None:
            if os.path.exists(self.state.only_once):
                return
            Path(self.state.only_once).touch()
        if self.state.how.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[self.state.how])
            threading.Event().wait()  # until the signal arrives
        os._exit(int(self.state.how))


class RandomState(IteratorState, kind="tests.random"):
    stop: int
    position: Position[int] = 0

    def build(self) -> NotDeterministic:
        return NotDeterministic(self.stop, self.position)


class NotDeterministic(StatefulIterator[bytes]):
    """Yields random items, which differ in each replay. ``get_state`` and the end of the iteration kill the process."""

    def __init__(self, stop: int, position: int = 0) -> None:
        self.stop, self.position = stop, position

    def get_state(self) -> RandomState:
        if self.position:
            os.kill(os.getpid(), signal.SIGKILL)
        return RandomState(stop=self.stop, position=self.position)

    def create_iter(self) -> Iterator[bytes]:
        while self.position < self.stop:
            self.position += 1
            yield os.urandom(8)
        os.kill(os.getpid(), signal.SIGKILL)
