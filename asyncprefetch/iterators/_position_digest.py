"""Checks that items which are drawn again on resume are the items that were drawn before.

Some states hold no items, only a place to draw them again from. They also hold a digest of where the inner iterator stood
after these items. A resume compares it, so that a file which has changed since is found.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Self

from asyncprefetch import _codec
from asyncprefetch._worker import counters
from asyncprefetch.base import IteratorState, is_position
from asyncprefetch.errors import CheckpointError
from asyncprefetch.iterators._document_error import DocumentError


def position_digest(state: IteratorState) -> str:
    """Return a digest of an iterator's position: all ``Position`` fields in its state and in the states within.

    Configuration is left out: it is compared elsewhere, and some of it may change, as the folder does when files are
    moved. Positions that have their default value are left out too, so that a later version can add a field without
    changing a digest.
    """
    text = json.dumps(state, default=_place, skipkeys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


class PositionDigest:
    """The digest of an iterator's position. It is computed when it is asked for: most positions never get into a state.

    Args:
        digest: the digest of the position so far; empty: unknown.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._inner_state: Callable[[], IteratorState] | None = None  # None: the digest is computed, or unknown

    def set_source(self, inner_state: Callable[[], IteratorState]) -> None:
        """Compute the digest from ``inner_state()`` when it is asked for. Valid until the inner iterator advances."""
        self._digest, self._inner_state = "", inner_state

    def advance(self) -> None:
        """Note that the inner iterator advances: its state is no longer that of the position."""
        self._inner_state = None

    def forget(self) -> None:
        """Make the digest unknown, so that nothing is checked."""
        self._digest, self._inner_state = "", None

    def digest(self) -> str:
        """Return what a state holds."""
        if self._inner_state is not None:
            self._digest, self._inner_state = position_digest(self._inner_state()), None
        return self._digest


class DrawnAgain:
    """The part of a stream that a resume draws again: it is not counted, and at its end the position is compared.

    Args:
        any_of_it: whether anything is drawn again.
        digest: the digest of the inner iterator's position at the end of that part; empty: unknown.
    """

    def __init__(self, any_of_it: bool, digest: str) -> None:
        self._pause = counters.Pause(any_of_it)
        self._digest = digest

    def check(self, inner_state: Callable[[], IteratorState]) -> None:
        """Count again, and compare the position. Idempotent.

        Raises:
            DocumentError: the inner iterator is at another position, or reads something else.
        """
        self.end()
        digest, self._digest = self._digest, ""
        if digest and position_digest(inner_state()) != digest:
            raise DocumentError(
                "what is read again, to continue from the checkpoint, is not what it was then: a file has changed since. "
                "Restore it, or start without the checkpoint. (If no file has changed, then an iterator in this pipeline "
                "has different states at the same item; asyncprefetch.testing.assert_resumes_exactly finds it.)"
            )

    def end(self) -> None:
        """Count again, and compare nothing yet. Idempotent."""
        self._pause.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def _place(value: Any) -> Any:
    """Return what JSON has no form for in a form that it has."""
    if not isinstance(value, IteratorState):
        try:
            return _codec.encode(value, None)
        except CheckpointError:  # then the value distinguishes nothing, at every resume alike
            return None
    positions, others = _fields(type(value))
    held = value.__dict__
    place = {name: held[name] for name, default in positions if not _is_default(held[name], default)}
    for name in others:
        within = _states_within(held[name])
        if within is not None:
            place[name] = within
    return place


@lru_cache(maxsize=256)
def _fields(cls: type[IteratorState]) -> tuple[list[tuple[str, Any]], list[str]]:
    fields = cls.model_fields.items()
    positions = [(name, field.default) for name, field in fields if is_position(field)]
    return positions, [name for name, field in fields if not is_position(field)]


def _is_default(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, int | str | None) and value == default


def _states_within(value: Any) -> Any:
    if isinstance(value, IteratorState):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        found = [_states_within(part) for part in value]
        return found if any(part is not None for part in found) else None
    return None
