"""What is known of a shard, and where it can be started again.

The loader knows the last state that a worker sent, its position, and a fingerprint of every item that came after it.
``(state, skip)`` is all that a restart, a retry or a checkpoint needs: build the state, draw and discard ``skip`` items,
and compare each with its fingerprint, so that an iterator that replays something else is found out.
"""

from __future__ import annotations

import dataclasses
import marshal
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from asyncprefetch._messages import ShardStart
from asyncprefetch._tensors import as_array, is_tensor

_SAMPLE = 16
_ELEMENTS = 32  # of a large array
_MAX_PARTS = 1000
_SCALARS = frozenset({bool, float, complex, type(None)})
_NUMBERS = frozenset("?bBhHiIlLqQefdFD")  # dtypes that need no closer look
_LOW_BITS = 2**64 - 1


class Ledger:
    """What the loader knows of one shard."""

    def __init__(self, shard: int, start: ShardStart, *, ended: bool = False) -> None:
        self.shard = shard
        self.ended = ended
        self._state = start.state
        self._state_position = start.state_position
        self._fingerprints = deque(start.skip)  # of the items since the state
        self.position = start.position  # of the next item to come

    def add_item(self, position: int, fingerprint: int) -> None:
        """An item came."""
        if position != self.position:
            raise RuntimeError(f"shard {self.shard}: item {position} came where {self.position} was due")
        self.position = position + 1
        self._fingerprints.append(fingerprint)

    def add_state(self, position: int, state: bytes) -> None:
        """A state came: what was before it need not be replayed any more."""
        if not self._state_position <= position <= self.position:
            raise RuntimeError(f"shard {self.shard}: a state at {position}, outside of what is known")
        while self._state_position < position:
            self._fingerprints.popleft()
            self._state_position += 1
        self._state = state

    def add_end(self, position: int) -> None:
        """The shard has no item at ``position``."""
        if position != self.position:
            raise RuntimeError(f"shard {self.shard}: the end came at {position}, with {self.position} due")
        self.ended = True

    def start(self) -> ShardStart:
        """Where the shard goes on from what is known now. A value: what comes later does not change it."""
        return ShardStart(self._state, self._state_position, tuple(self._fingerprints))


def fingerprint(item: Any) -> int:
    """A checksum (CRC-32) over the layout and the sizes of an item and over a few bytes of its leaves.

    It is the same in every process, and independent of identity, of hashing, of memory order and of padding: equal items
    that share objects in another way have one fingerprint. Of long lists and dicts the parts at both ends and in the
    middle count, of an array some elements from all over it, and of a large nest the first parts, so that it stays cheap
    whatever the item is; a cycle ends by that, too.
    """
    parts: list[Any] = []
    ahead: deque[Any] = deque()
    if type(item) is dict and len(item) <= _SAMPLE:
        # The usual item, a few named arrays, without the detour.
        for key, value in item.items():
            if type(key) is not str or len(key) > _SAMPLE:
                ahead.append(key)
            else:
                parts.append(key)
            if type(value) is np.ndarray:
                parts.append(_sample(value))
            elif is_tensor(type(value)) and (array := as_array(value)) is not None:
                parts.append(_sample(array))
            else:
                ahead.append(value)
    else:
        ahead.append(item)
    while ahead and len(parts) < _MAX_PARTS:
        value = ahead.popleft()
        cls = type(value)
        if cls is np.ndarray:
            parts.append(_sample(value))
        elif cls is str:
            parts.append(value if len(value) <= 2 * _SAMPLE else (len(value), value[:_SAMPLE], value[-_SAMPLE:]))
        elif cls is dict and len(value) <= _SAMPLE:
            parts.append(len(value))
            for pair in value.items():
                ahead.extend(pair)
        elif cls in _SCALARS:
            parts.append(value)
        else:
            parts.append(cls.__name__)
            _collect(value, parts, ahead)
    # Of this version of marshal the bytes depend on the values alone; later ones write shared objects once.
    return zlib.crc32(marshal.dumps(parts, 2))


def _collect(value: Any, parts: list[Any], ahead: deque[Any]) -> None:
    """Add what ``value`` itself shows to ``parts``, and what it consists of to ``ahead``."""
    cls = type(value)
    if cls is int:
        parts.append(value if value.bit_length() <= 64 else (value.bit_length(), value & _LOW_BITS))
    elif cls in {bytes, bytearray}:
        parts.append((len(value), bytes(value[:_SAMPLE]), bytes(value[-_SAMPLE:])))
    elif isinstance(value, np.generic):
        parts.append((value.dtype.str, repr(value)))
    elif isinstance(value, list | tuple):
        parts.append(len(value))
        ahead.extend(_some(value))
    elif isinstance(value, dict):
        parts.append(len(value))
        for pair in _some(list(value.items())):
            ahead.extend(pair)
    elif dataclasses.is_dataclass(value):
        ahead.extend(getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, BaseModel):
        ahead.append(value.__dict__)
    elif is_tensor(cls) and (array := as_array(value)) is not None:
        ahead.append(array)


def _some(values: Sequence[Any]) -> Sequence[Any]:
    if len(values) <= 3 * _SAMPLE:
        return values
    middle = len(values) // 2
    return [*values[:_SAMPLE], *values[middle : middle + _SAMPLE], *values[-_SAMPLE:]]


def _sample(array: np.ndarray[Any, Any]) -> Any:
    """Dtype, shape, and elements from all over the array, by their place and not by where they lie in memory."""
    dtype, size = array.dtype, array.size
    char = dtype.char
    if char not in _NUMBERS:
        if dtype.hasobject or size == 0 or dtype.itemsize == 0:
            return dtype.str, array.shape
        if dtype.fields is not None or char in "gG":
            # By value: the padding between fields, or of a long double, is whatever lay in memory, and is not data.
            return dtype.str, array.shape, *(repr(array.flat[place]) for place in sorted({0, size // 2, size - 1}))
        char = dtype.str
    step = size // _ELEMENTS
    if step > 1:
        elements: Any = array.ravel() if array.flags.c_contiguous else array.flat
        array_bytes = elements[(size - 1) % step :: step].tobytes()
    else:
        array_bytes = array.tobytes()
    return char, array.shape, array_bytes
