"""What writing and reading the structure share: limits, names, and the two ways to refuse."""

from __future__ import annotations

import functools
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn

from pydantic import JsonValue, ValidationError

from asyncprefetch.errors import CheckpointError

MAX_DEPTH = 64
"""Deepest nesting of one item or state: far beyond any real one. A level is at most two of JSON, and pydantic's parser
takes 200 of those."""

COMPLEX = struct.Struct("<dd")
DOUBLE = struct.Struct("<d")

_MAX_OF_ONE_HASH = 256

UNSET: JsonValue = {"$": "unset"}
"""In place of the value of a dataclass field that has none."""


class UnsupportedError(CheckpointError):
    """A checkpoint can't hold a value; the message names its path in the nest and the reason."""


def refuse(path: str, reason: str) -> NoReturn:
    """A checkpoint can't hold what lies at ``path``."""
    raise UnsupportedError(f"{path}: {reason}")


def malformed(reason: str) -> CheckpointError:
    """The error for a structure that this codec did not write."""
    return CheckpointError(f"malformed structure: {reason:.1000}")


def unknown_names(cls: Any, names: Any, known: Any) -> str:
    """What to say of attributes that are neither fields nor cached properties; empty if there are none."""
    unknown = set(names).difference(known)
    if unknown:  # looked up only now, for it is rare and slow
        cached = (n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, functools.cached_property))
        unknown.difference_update(cached)
    return f"{qualified_name(cls)} has no field {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def crowded(keys: Iterable[Any]) -> bool:
    """Whether so many keys have one hash that a dict of them takes time in the square of their number.

    By chance it does not happen; but a file can name as many such numbers or tuples as it likes.
    """
    return max(Counter(map(hash, keys)).values(), default=0) > _MAX_OF_ONE_HASH


def brief(value: Any) -> str:
    """What to call a value in messages, whatever it is: that of a hostile file may have no ``repr()``."""
    try:
        text = repr(value)
    except Exception:
        return f"a {qualified_name(type(value))}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def told(error: ValidationError) -> str:
    """What an error says, in bounded length: there may be one for each element of a large array."""
    count = error.error_count()
    return f"{error!s:.2000}" if count <= 100 else f"{count} errors"


def is_utf8(text: str) -> bool:
    """Whether JSON can hold the text: it has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def qualified_name(obj: Any) -> str:
    """What to call a class or a function in messages."""
    return f"{getattr(obj, '__module__', None)}.{obj.__qualname__}"
