"""What writing and reading the structure share: limits, names, and the two ways to refuse."""

from __future__ import annotations

import functools
import struct
from typing import Any, NoReturn

from pydantic import JsonValue

from asyncprefetch.errors import CheckpointError

MAX_DEPTH = 64
"""Deepest nesting of one item or state: far beyond any real one. A level is at most two of JSON, and pydantic's parser
takes 200 of those."""

COMPLEX = struct.Struct("<dd")
DOUBLE = struct.Struct("<d")

UNSET: JsonValue = {"$": "unset"}
"""In place of the value of a dataclass field that has none."""


class UnsupportedError(CheckpointError):
    """A checkpoint can't hold a value; the message names its path in the nest and the reason."""


def refuse(path: str, reason: str) -> NoReturn:
    """A checkpoint can't hold what lies at ``path``."""
    raise UnsupportedError(f"{path}: {reason}")


def malformed(reason: str) -> CheckpointError:
    """The error for a structure that this codec did not write."""
    return CheckpointError(f"malformed structure: {reason}")


def unknown_names(cls: Any, names: Any, known: Any) -> str:
    """What to say of attributes that are neither fields nor cached properties; empty if there are none."""
    unknown = set(names).difference(known)
    if unknown:  # looked up only now, for it is rare and slow
        cached = (n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, functools.cached_property))
        unknown.difference_update(cached)
    return f"{qualified_name(cls)} has no field {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


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
