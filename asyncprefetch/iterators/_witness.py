"""Whether what is drawn again is what was drawn before, for iterators whose states hold a place to draw again from."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from asyncprefetch import _items
from asyncprefetch.base import IteratorState, is_position
from asyncprefetch.errors import CheckpointError
from asyncprefetch.iterators._files import DocumentError


def witness_of(state: IteratorState) -> str:
    """A digest of where an iterator is: of the positions in its state, and in all states within.

    Not of its configuration, which is compared elsewhere and may change, as the folder of the files does when they are
    moved. Nor of positions that are at their default: so a field more, in a later version, changes no digest.
    """
    text = json.dumps(state, default=_place, skipkeys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()


def confirm(state: IteratorState, witness: str) -> None:
    """Compare where an iterator is with where it was at the same item, if that is known.

    Raises:
        DocumentError: it is elsewhere, or reads something else.
    """
    if witness and witness_of(state) != witness:
        raise DocumentError(
            "what is read again, to go on from the checkpoint, is not what it was then: a file has changed since. Bring it "
            "back as it was, or start anew without the checkpoint. (If no file has, then an iterator in this pipeline has "
            "different states at the same item; asyncprefetch.testing.assert_resumes_exactly finds it.)"
        )


def _place(value: Any) -> Any:
    """What JSON has no form for, in one that it has."""
    if not isinstance(value, IteratorState):
        try:
            return _items.encode(value, None)
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
