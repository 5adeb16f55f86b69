"""Iterators that raise an error of a given kind at a given place."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from asyncprefetch import IteratorState, Position, StatefulIterator


class TwoArgumentsError(Exception):
    """An error that can be pickled, but not unpickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")


class ChangingError(Exception):
    """An error whose text changes when it is pickled and unpickled."""

    def __init__(self, text: str) -> None:
        super().__init__(f"so to speak: {text}")


class Outer:
    class NestedError(Exception):
        """An error whose qualified name has more than one part."""


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def _holding_a_lock() -> Exception:
    error = ValueError("with a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


ERRORS: dict[str, Callable[[], BaseException]] = {
    "KeyError": lambda: KeyError("missing"),
    "OSError": lambda: OSError(5, "the disk went away"),
    "TwoArgumentsError": lambda: TwoArgumentsError(1, 2),
    "ChangingError": lambda: ChangingError("text"),
    "NestedError": lambda: Outer.NestedError("within"),
    "UnprintableError": UnprintableError,
    "with a lock": _holding_a_lock,
    "StopIteration": lambda: StopIteration("from inside"),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "ExceptionGroup": lambda: ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
}


class FailState(IteratorState, kind="tests.fail"):
    stop: int
    at: int
    error: str
    phase: str = "next"
    only_once: str | None = None  # a file that the first error creates; it prevents further errors
    position: Position[int] = 0

    def build(self) -> Fail:
        if self.phase == "build":
            _raise(self)
        return Fail(self)


class Fail(StatefulIterator[int]):
    """Counts, and raises at one position or in one of the calls around the iteration."""

    def __init__(self, state: FailState) -> None:
        self.state = state
        self.position = state.position

    @classmethod
    def make(cls, stop: int, at: int, error: str, phase: str = "next", only_once: str | None = None) -> Fail:
        return cls(FailState(stop=stop, at=at, error=error, phase=phase, only_once=only_once))

    def get_state(self) -> FailState:
        if self.state.phase == "get_state" and self.position >= self.state.at:
            _raise(self.state)
        return self.state.model_copy(update={"position": self.position})

    def create_iter(self) -> Iterator[int]:
        if self.state.phase == "create_iter":
            _raise(self.state)
        return self._items()

    def _items(self) -> Iterator[int]:
        while self.position < self.state.stop:
            if self.state.phase == "next" and self.position == self.state.at:
                _raise(self.state)
            self.position += 1
            yield self.position - 1


def _raise(state: FailState) -> None:
    if state.only_once is not None:
        if os.path.exists(state.only_once):
            return
        Path(state.only_once).touch()
    raise ERRORS[state.error]()
