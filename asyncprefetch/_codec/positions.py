"""Positions and configuration: the two kinds of fields that an iterator state has, and how configurations are compared."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic.fields import FieldInfo

from asyncprefetch._codec import class_errors, registry
from asyncprefetch._codec.arrays import raw_bytes
from asyncprefetch._codec.common import describe, shorten
from asyncprefetch._codec.encoder import encode
from asyncprefetch.errors import CheckpointError

T = TypeVar("T")


class _PositionMark:
    """Marks a field of a state as its position in the stream."""

    def __repr__(self) -> str:
        return "Position"


Position = Annotated[T, _PositionMark()]
"""``offset: Position[int]`` marks a field that changes as the iterator advances.

Every other field is configuration. ``AsyncPrefetcherState.load(path, expect=pipeline)`` refuses a checkpoint whose
configuration differs from the pipeline's.
"""


def is_position(field: FieldInfo) -> bool:
    """Return whether a field of a state is marked as a position."""
    return any(isinstance(mark, _PositionMark) for mark in field.metadata)


def compare_configuration(saved: Any, given: Any, path: str) -> list[str]:
    """Return one line for each field in which two states, or two nests that hold states, differ. Ignore positions."""
    if type(given) is np.memmap:  # a checkpoint holds it as a plain array
        given = given.view(np.ndarray)
    kind = registry.kind_of(type(saved))
    if kind is not None:
        # Compare kinds, not classes: a state that was read from a file may be of the generic class.
        if kind is registry.kind_of(type(given)):
            return [
                line
                for name, field in type(saved).model_fields.items()
                if not is_position(field)
                for line in compare_configuration(getattr(saved, name), getattr(given, name), f"{path}.{name}")
            ]
        if registry.is_same_definition(type(saved), type(given)):
            return [f"{path}: {class_errors.defined_after(type(given))}"]
    elif type(saved) is type(given):
        if isinstance(saved, list | tuple) and len(saved) == len(given):
            pairs = enumerate(zip(saved, given, strict=True))
            return [line for i, (a, b) in pairs for line in compare_configuration(a, b, f"{path}[{i}]")]
        if isinstance(saved, dict) and saved.keys() == given.keys():
            return [line for k in saved for line in compare_configuration(saved[k], given[k], f"{path}[{k!r}]")]
        names = _fields_of(saved)
        if names and names == _fields_of(given):
            pairs_of = ((name, getattr(saved, name), getattr(given, name)) for name in names)
            return [line for name, a, b in pairs_of for line in compare_configuration(a, b, f"{path}.{name}")]
        if _same(saved, given):
            return []
    texts = [_describe(saved), _describe(given)]
    # Long paths, for example, often differ at their end only.
    common = _common_length(*texts)
    saved_text, given_text = (shorten(text, skipped=common - 20 if common > 60 else 0) for text in texts)
    return [f"{path}: saved {saved_text}, given {given_text}"]


def _common_length(a: str, b: str) -> int:
    """Return how many characters at the start of two texts are the same. A list of paths may be a text of megabytes."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _fields_of(value: Any) -> list[str]:
    """Return the fields of a registered dataclass that have a value. A partial of a registered function is one."""
    if registry.tag_of(type(value)) is None or not dataclasses.is_dataclass(value):
        return []
    return [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]


def _same(saved: Any, given: Any) -> bool:
    if type(saved) is np.ndarray and not saved.dtype.hasobject:  # the memory order may differ
        same_kind = saved.dtype == given.dtype and saved.shape == given.shape
        return same_kind and raw_bytes(saved) == raw_bytes(given)
    try:
        # Compare every bit: with ==, 1 equals 1.0, NaN differs from itself, and objects that hold arrays have no answer.
        texts = (json.dumps(encode(value, None), sort_keys=True) for value in (saved, given))
        return next(texts) == next(texts)
    except CheckpointError:
        return bool(saved == given)


def _describe(value: Any) -> str:
    if registry.kind_of(type(value)) is not None:
        return type(value).__qualname__
    tag = registry.tag_of(value)
    return describe(value) if tag is None else repr(tag)
