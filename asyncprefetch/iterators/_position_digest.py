"""Whether what is drawn again is what was drawn before, for iterators whose states hold a place to draw again from."""

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
from asyncprefetch.iterators.text._files import DocumentError


def witness_of(state: IteratorState) -> str:
    """A digest of where an iterator is: of the positions in its state, and in all states within.

    Not of its configuration, which is compared elsewhere and may change, as the folder of the files does when they are
    moved. Nor of positions that are at their default: so a field more, in a later version, changes no digest.
    """
    text = json.dumps(state, default=_place, skipkeys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


class Witness:
    """The witness of an iterator's place, made when it is asked for: most places are in no state.

    Args:
        digest: that of the place so far; empty: nothing is known of it.
    """

    def __init__(self, digest: str) -> None:
        self._digest = digest
        self._inner_state: Callable[[], IteratorState] | None = None  # as long as it was not asked for

    def is_of(self, inner_state: Callable[[], IteratorState]) -> None:
        """It is of the state that ``inner_state`` gives, until the inner iterator goes on."""
        self._digest, self._inner_state = "", inner_state

    def goes_on(self) -> None:
        """The inner iterator goes on, and its state is not that of the place any more."""
        self._inner_state = None

    def forget(self) -> None:
        """Of the place nothing is known, or nothing is to be checked."""
        self._digest, self._inner_state = "", None

    def digest(self) -> str:
        """What a state is to hold."""
        if self._inner_state is not None:
            self._digest, self._inner_state = witness_of(self._inner_state()), None
        return self._digest


class DrawnAgain:
    """What a resume draws again to get to its place: it is not counted, and compared with the witness when it is over.

    Args:
        any_of_it: whether anything is drawn again at all.
        witness: of the inner iterator where it is over; empty: nothing is known.
    """

    def __init__(self, any_of_it: bool, witness: str) -> None:
        self._pause = counters.Pause(any_of_it)
        self._witness = witness

    def over(self, inner_state: Callable[[], IteratorState]) -> None:
        """Count again, and compare. Idempotent.

        Raises:
            DocumentError: the inner iterator is elsewhere, or reads something else.
        """
        self.end()
        witness, self._witness = self._witness, ""
        if witness and witness_of(inner_state()) != witness:
            raise DocumentError(
                "what is read again, to go on from the checkpoint, is not what it was then: a file has changed since. Bring "
                "it back as it was, or start anew without the checkpoint. (If no file has, then an iterator in this "
                "pipeline has different states at the same item; asyncprefetch.testing.assert_resumes_exactly finds it.)"
            )

    def end(self) -> None:
        """Count again, and compare nothing yet. Idempotent."""
        self._pause.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()


def _place(value: Any) -> Any:
    """What JSON has no form for, in one that it has."""
    if not isinstance(value, IteratorState):
        try:
            return _codec.encode(value, None)
        except CheckpointError:  # which tells nothing then, now as before
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
