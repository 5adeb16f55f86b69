"""The common part of the encoder and the decoder: limits, names, and errors."""

from __future__ import annotations

import decimal
import functools
import struct
from collections import Counter
from collections.abc import Iterable
from typing import Any, NoReturn, Protocol

from pydantic import JsonValue, ValidationError

from asyncprefetch.errors import CheckpointError

MAX_DEPTH = 64
"""The deepest nesting of an item or a state, far beyond any real one. Each level is at most two levels of JSON, and
pydantic's parser accepts 200 of these."""

COMPLEX = struct.Struct("<dd")
DOUBLE = struct.Struct("<d")

_MAX_OF_ONE_HASH = 256

UNSET: JsonValue = {"$": "unset"}
"""Stands for a dataclass field that has no value."""

Node = dict[str, JsonValue]
"""An object of the structure that stands for a value. Its key ``"$"`` names the kind of value."""


class Encoding(Protocol):
    """The encoder, for the modules that encode one kind of value."""

    def encode(self, value: Any, path: str, depth: int) -> JsonValue:
        """Return the structure of a part of an item. ``depth`` is the number of nodes around it."""


class Decoding(Protocol):
    """The decoder, for the modules that decode one kind of value."""

    def decode(self, node: JsonValue, depth: int) -> Any:
        """Return the value that a part of a structure describes. ``depth`` is the number of nodes around it."""


class UnsupportedError(CheckpointError):
    """A checkpoint can't hold a value. The message names its path in the nest and the reason."""


def refuse(path: str, reason: str) -> NoReturn:
    """Raise the error for a value at ``path`` that a checkpoint can't hold."""
    raise UnsupportedError(f"{path}: {reason}")


def malformed(reason: str) -> CheckpointError:
    """Return the error for a structure that this codec did not write."""
    return CheckpointError(f"malformed structure: {reason:.1000}")


def unknown_names(cls: Any, names: Any, known: Any) -> str:
    """Return a message about attributes that are neither fields nor cached properties, or an empty string."""
    unknown = set(names).difference(known)
    if unknown:  # looked up only here, because it is rare and slow
        cached = (n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, functools.cached_property))
        unknown.difference_update(cached)
    return f"{qualified_name(cls)} has no field {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def crowded(keys: Iterable[Any]) -> bool:
    """Return whether so many keys have the same hash that a dict of them takes quadratic time.

    This does not happen by chance, but a hostile file can hold any number of such keys.
    """
    return max(Counter(map(hash, keys)).values(), default=0) > _MAX_OF_ONE_HASH


class KeyCheck:
    """Finds keys of dicts that take too long to compare: a long int may have the hash of a Decimal.

    To compare the two takes time that is quadratic in the length of the int, so one structure holds only one of the kinds.

    Attributes:
        depth: how many keys of dicts the value that is encoded or decoded lies in.
    """

    def __init__(self) -> None:
        self.depth = 0
        self._has_decimal = self._has_long_int = False

    def is_too_slow(self, value: Any) -> bool:
        """Take note of a value in a key. Return whether comparing it with those before it may take too long."""
        if type(value) is decimal.Decimal:
            self._has_decimal = True
        elif type(value) is int and value.bit_length() > 1024:
            self._has_long_int = True
        return self._has_decimal and self._has_long_int


SLOW_KEYS = "a Decimal and an int of more than 1,024 bits, both in keys of dicts"


def describe(value: Any) -> str:
    """Return the ``repr()`` of a value, or its class: a value from a hostile file may have no ``repr()``."""
    try:
        return repr(value)
    except Exception:
        return f"a {qualified_name(type(value))}"


def shorten(text: str, skipped: int = 0) -> str:
    """Return at most 80 characters of a text, without its first ``skipped`` characters."""
    if skipped:
        text = f"...{text[skipped:]}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def brief(value: Any) -> str:
    """Return a description of a value in at most 80 characters."""
    return shorten(describe(value))


def validation_text(error: ValidationError) -> str:
    """Return an error's text in bounded length: there may be an error for each element of a large array."""
    count = error.error_count()
    return f"{error!s:.2000}" if count <= 100 else f"{count} errors"


def is_utf8(text: str) -> bool:
    """Return whether JSON can hold the text: it has no lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def qualified_name(obj: Any) -> str:
    """Return the name of a class or a function for messages."""
    return f"{getattr(obj, '__module__', None)}.{obj.__qualname__}"
