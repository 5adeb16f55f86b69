"""Calls into the user's code. Whatever it raises becomes data, because it would mean something else on the other side.

``StopIteration``, ``SystemExit``, ``CancelledError`` and ``KeyboardInterrupt`` are caught too.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from asyncprefetch._wire.remote_errors import RemoteError, describe
from asyncprefetch.base import IteratorState, StatefulIterator, iterate

T = TypeVar("T")


class UserCodeError(Exception):
    """The user's code raised. ``error`` is what it raised, as data."""

    def __init__(self, error: RemoteError) -> None:
        self.error = error


def guarded(phase: str, function: Callable[..., T], *args: Any) -> T:
    """Call ``function``.

    Args:
        phase: what the call is for, as the error names it.
        function: the user's code, or code that calls it.
        args: its arguments.

    Raises:
        UserCodeError: the function raised anything.
    """
    try:
        return function(*args)
    except BaseException as error:
        raise UserCodeError(describe(error, phase)) from error


def build(state: bytes) -> StatefulIterator[Any]:
    """The iterator of a pickled state."""
    unpickled: IteratorState = guarded("build", pickle.loads, state)
    return guarded("build", _build, unpickled)


def create_iter(iterator: StatefulIterator[Any]) -> Iterator[Any]:
    """The iterator's items."""
    return guarded("create_iter", _create_iter, iterator)


def pickled_state(iterator: StatefulIterator[Any]) -> bytes:
    """The iterator's present state, pickled."""
    return guarded("get_state", _get_state, iterator)


def _build(state: IteratorState) -> StatefulIterator[Any]:
    iterator = state.build()
    if not isinstance(iterator, StatefulIterator):
        raise TypeError(f"{type(state).__qualname__}.build() must return a StatefulIterator, not {iterator!r:.80}")
    return iterator


def _create_iter(iterator: StatefulIterator[Any]) -> Iterator[Any]:
    return iterate(iterator)


def _get_state(iterator: StatefulIterator[Any]) -> bytes:
    state = iterator.get_state()
    if not isinstance(state, IteratorState):
        raise TypeError(f"{type(iterator).__qualname__}.get_state() must return an IteratorState, not {state!r:.80}")
    return pickle.dumps(state, 5)
