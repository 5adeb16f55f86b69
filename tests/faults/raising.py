"""Iterators that raise unusual errors at unusual places. Workers import this module, so it imports little."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from asyncprefetch import IteratorState, Position, StatefulIterator


class NeedsKeywordsError(Exception):
    def __init__(self, *, name: str, code: int) -> None:
        super().__init__(f"{name} has {code}")


class ExitsWhenMadeAgainError(Exception):
    """An error that ends the program while it is unpickled."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)

    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class CancelsWhenMadeAgainError(Exception):
    def __reduce__(self) -> Any:
        return _cancel, ()


def _cancel() -> None:
    raise asyncio.CancelledError


class ExitsWhenPickledError(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit(4)


class ExitsWhenPrintedError(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)


class InterruptsWhenPrintedError(Exception):
    def __str__(self) -> str:
        raise KeyboardInterrupt


class PrintedAsALocalStringError(Exception):
    def __str__(self) -> str:
        class LocalString(str):
            pass

        return LocalString("text")


class ExitsWhenAskedForItsTracebackError(Exception):
    @property
    def __traceback__(self) -> Any:
        raise SystemExit(6)


class ExitsWhenAskedForAnythingError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(7)


class _NamelessClass(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in {"__module__", "__qualname__", "__name__", "__mro__"}:
            raise SystemExit(8)
        return super().__getattribute__(name)


class OfANamelessClassError(Exception, metaclass=_NamelessClass):
    pass


class OfNoModuleError(Exception):
    __module__ = None  # type: ignore[assignment]


class BecomesAnotherError(Exception):
    def __reduce__(self) -> Any:
        return StopAsyncIteration, ()


class NotAnError(BaseException):
    """An error that derives from ``BaseException`` only."""


def _holding() -> Exception:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


def _in_a_circle() -> Exception:
    error = ValueError("its own cause")
    error.__cause__ = RuntimeError("in between")
    error.__cause__.__cause__ = error
    return error


def _of_a_local_class() -> Exception:
    class LocalError(Exception):
        pass

    return LocalError("of a local class")


ERRORS: dict[str, Callable[[], BaseException]] = {
    "keywords": lambda: NeedsKeywordsError(name="it", code=3),
    "exits when made again": lambda: ExitsWhenMadeAgainError("text"),
    "cancels when made again": lambda: CancelsWhenMadeAgainError("text"),
    "exits when pickled": lambda: ExitsWhenPickledError("text"),
    "exits when printed": lambda: ExitsWhenPrintedError("text"),
    "interrupts when printed": lambda: InterruptsWhenPrintedError("text"),
    "printed as a local string": lambda: PrintedAsALocalStringError("text"),
    "exits when asked for its traceback": lambda: ExitsWhenAskedForItsTracebackError("text"),
    "exits when asked for anything": lambda: ExitsWhenAskedForAnythingError("text"),
    "of a nameless class": lambda: OfANamelessClassError("text"),
    "of no module": lambda: OfNoModuleError("text"),
    "becomes another": lambda: BecomesAnotherError("text"),
    "not an error": lambda: NotAnError("text"),
    "holding a lock": _holding,
    "in a circle": _in_a_circle,
    "of a local class": _of_a_local_class,
    "StopIteration": lambda: StopIteration(7),
    "StopAsyncIteration": StopAsyncIteration,
    "CancelledError": asyncio.CancelledError,
    "SystemExit": lambda: SystemExit(0),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "group": lambda: ExceptionGroup("several", [ValueError("one"), _holding()]),
    "base group": lambda: BaseExceptionGroup("several", [KeyboardInterrupt(), StopAsyncIteration()]),
}

PHASES = ("build", "create_iter", "next", "__next__", "get_state")


class RaisingState(IteratorState, kind="tests.faults.raising"):
    error: str
    phase: str
    at: int
    position: Position[int] = 0

    def build(self) -> Raising:
        if self.phase == "build":
            raise ERRORS[self.error]()
        return Raising(self.error, self.phase, self.at, self.position)

    def __reduce__(self) -> Any:
        if self.phase == "state made again" and self.position >= self.at:
            return _fail_to_open, (self.error,)
        return super().__reduce__()


class Raising(StatefulIterator[int]):
    """Counts, and raises in the call that ``phase`` names: ``next`` at one position, or another call."""

    def __init__(self, error: str, phase: str, at: int, position: int = 0) -> None:
        self.error, self.phase, self.at, self.position = error, phase, at, position

    def get_state(self) -> RaisingState:
        if self.phase == "get_state" and self.position >= self.at:
            raise ERRORS[self.error]()
        return RaisingState(error=self.error, phase=self.phase, at=self.at, position=self.position)

    def create_iter(self) -> Iterator[int]:
        if self.phase == "create_iter":
            raise ERRORS[self.error]()
        return Steps(self) if self.phase == "__next__" else self._items()

    def _items(self) -> Iterator[int]:
        while self.position < self.at:
            self.position += 1
            yield self.position - 1
        if self.phase == "next":
            raise ERRORS[self.error]()
        if self.phase == "unpickle":
            yield Unopenable(self.error)  # type: ignore[misc]
        if self.phase == "unpickle in a thread":
            yield [Unopenable(self.error), bytes(2 << 20)]  # type: ignore[misc]


class Unopenable:
    """An object that can be pickled, but raises when it is unpickled."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _fail_to_open, (self.error,)


def _fail_to_open(error: str) -> None:
    raise ERRORS[error]()


class Steps:
    """An iterator that is no generator, so that Python does not change what it raises."""

    def __init__(self, raising: Raising) -> None:
        self.raising = raising

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> int:
        if self.raising.position == self.raising.at:
            raise ERRORS[self.raising.error]()
        self.raising.position += 1
        return self.raising.position - 1
