"""What is known of a shard, and where it can be started again.

The loader knows the last state that a worker sent, its position, and a fingerprint of every item that came after it.
``(state, skip)`` is all that a restart, a retry or a checkpoint needs: build the state, draw and discard ``skip`` items,
and compare each with its fingerprint, so that an iterator that replays something else is found out.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from asyncprefetch._messages import ShardStart

_SAMPLE = 16
_MAX_PARTS = 1000
_LOW_BITS = 2**64 - 1


class Ledger:
    """What the loader knows of one shard."""

    def __init__(self, shard: int, start: ShardStart, *, ended: bool = False) -> None:
        self.shard = shard
        self.ended = ended
        self._state = start.state
        self._state_position = start.state_position
        self._fingerprints = deque(start.skip)

    @property
    def position(self) -> int:
        """Position of the next item to come."""
        return self._state_position + len(self._fingerprints)

    def add_item(self, position: int, fingerprint: int) -> None:
        """An item came."""
        if position != self.position:
            raise RuntimeError(f"shard {self.shard}: item {position} came where {self.position} was due")
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

    It is the same in every process, and independent of identity, of hashing, and of padding: equal items that share
    objects in another way have one fingerprint. Of long lists and dicts the parts at both ends and in the middle count,
    and of a large nest the first parts, so that it stays cheap whatever the item is; a cycle ends by that, too.
    """
    parts: list[Any] = []
    ahead = deque([item])
    while ahead and len(parts) < _MAX_PARTS:
        value = ahead.popleft()
        parts.append(type(value).__name__)
        _collect(value, parts, ahead)
    return zlib.crc32(repr(parts).encode("utf-8", "surrogatepass"))


def _collect(value: Any, parts: list[Any], ahead: deque[Any]) -> None:
    """Add what ``value`` itself shows to ``parts``, and what it consists of to ``ahead``."""
    cls = type(value)
    if cls is np.ndarray:
        parts.append((value.dtype.str, value.shape, *_samples(value)))
    elif value is None or cls in {bool, float, complex}:
        parts.append(value)
    elif cls is int:
        # A very long int has no repr.
        parts.append(value if value.bit_length() <= 64 else (value.bit_length(), value & _LOW_BITS))
    elif cls in {str, bytes, bytearray}:
        parts.append((len(value), value[:_SAMPLE], value[-_SAMPLE:]))
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


def _some(values: Sequence[Any]) -> Sequence[Any]:
    if len(values) <= 3 * _SAMPLE:
        return values
    middle = len(values) // 2
    return [*values[:_SAMPLE], *values[middle : middle + _SAMPLE], *values[-_SAMPLE:]]


def _samples(array: np.ndarray[Any, Any]) -> tuple[bytes, ...]:
    if array.dtype.hasobject or array.size == 0 or array.dtype.itemsize == 0:
        return ()
    if array.dtype.fields is not None or array.dtype.char in "gG":
        # By value: the padding between fields, or of a long double, is whatever lay in memory, and is not data.
        places = {0, array.size // 2, array.size - 1}
        return tuple(repr(array.flat[place]).encode() for place in sorted(places))
    if array.flags.c_contiguous:
        flat = array.reshape(-1).view(np.uint8)
        middle = flat.size // 2
        return flat[:_SAMPLE].tobytes(), flat[middle : middle + _SAMPLE].tobytes(), flat[-_SAMPLE:].tobytes()
    return array[(0,) * array.ndim].tobytes(), array[(-1,) * array.ndim].tobytes()
