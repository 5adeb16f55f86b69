"""A short checksum of an item, by which a replay is compared with what was received before."""

from __future__ import annotations

import dataclasses
import enum
import marshal
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from asyncprefetch._wire.item_layout import MAX_LAYOUTS, NUMBERS, Flat, Layout
from asyncprefetch._wire.tensors import as_array, is_tensor

_SAMPLE = 16
_WHOLE = 1024  # bytes of an array that are not more work than elements from all over it
_ELEMENTS = 32  # of a larger array
_MAX_PARTS = 1000
_SCALARS = frozenset({bool, float, complex, type(None)})
# Dtypes that need no closer look, by their letter: of two letters for one dtype the name is the same.
_NUMBERS = {letter: np.dtype(letter).str for letter in NUMBERS}
_LONG_DOUBLE = 10 if np.finfo(np.longdouble).nmant == 63 else 16  # bytes that are not padding
_LOW_BITS = 2**64 - 1


def fingerprint(item: Any, flat: Flat | None = None) -> int:
    """A checksum (CRC-32) over the layout and the sizes of an item and over a few bytes of its leaves.

    It is the same in every process, and independent of identity, of hashing, of memory order and of padding: equal items
    that share objects in another way have one fingerprint. Of long lists and dicts the parts at both ends and in the
    middle count, of a small array all of it, of a large one some elements from all over it, and of a large nest the
    first parts, so that it stays cheap whatever the item is; a cycle ends by that, too.

    Args:
        item: the item.
        flat: the same flattened, if it can be: then this is quicker.
    """
    if flat is not None:
        layout, arrays, _ = flat
        checksum = _checksums.get(layout)
        if checksum is None:
            checksum = _remember(item, flat)
        if checksum != _NONE:
            for array in arrays:
                checksum = zlib.crc32(_sample(array), checksum)
            return checksum
    parts, samples = _walk(item)
    checksum = _checksum(parts)
    for sample in samples:
        checksum = zlib.crc32(sample, checksum)
    return checksum


# Of the parts of dicts of arrays, where they follow from the layout.
_checksums: dict[Layout, int] = {}
_NONE = -1


def _remember(item: Any, flat: Flat) -> int:
    layout, arrays, _ = flat
    if len(_checksums) >= MAX_LAYOUTS:
        _checksums.clear()
    plain = all(array.dtype.char in _NUMBERS for array in arrays)
    checksum = _checksums[layout] = _checksum(_walk(item)[0]) if plain else _NONE
    return checksum


def _checksum(parts: list[Any]) -> int:
    # Of this version of marshal the bytes depend on the values alone; later ones write shared objects once.
    return zlib.crc32(marshal.dumps(parts, 2))


def _walk(item: Any) -> tuple[list[Any], list[bytes]]:
    """What the item consists of, and elements of its arrays."""
    parts: list[Any] = []
    samples: list[bytes] = []
    ahead: deque[Any] = deque([item])
    while ahead and len(parts) < _MAX_PARTS:
        value = ahead.popleft()
        cls = type(value)
        if cls is np.ndarray:
            parts.append(_take(value, samples, ahead))
        elif cls is str and len(value) <= 2 * _SAMPLE:
            parts.append(value)
        elif cls is dict and len(value) <= _SAMPLE:
            parts.append(len(value))
            for pair in value.items():
                ahead.extend(pair)
        elif cls in _SCALARS:
            parts.append(value)
        else:
            if not issubclass(cls, np.generic):  # one dtype may have two classes
                parts.append(cls.__name__)
            _collect(value, parts, samples, ahead)
    return parts, samples


def _collect(value: Any, parts: list[Any], samples: list[bytes], ahead: deque[Any]) -> None:
    """Add what ``value`` itself shows to ``parts`` and ``samples``, and what it consists of to ``ahead``."""
    if isinstance(value, enum.Enum):
        parts.append(value.name)
    elif isinstance(value, int):
        parts.append(int(value) if value.bit_length() <= 64 else (value.bit_length(), value & _LOW_BITS))
    elif isinstance(value, np.ma.MaskedArray):
        ahead.extend((np.ma.filled(value, 0), np.ma.getmaskarray(value)))  # under the mask lies anything
    elif isinstance(value, np.ndarray | np.generic):
        parts.append(_take(np.asarray(value), samples, ahead))
    elif isinstance(value, str):
        parts.append((len(value), str(value[:_SAMPLE]), str(value[-_SAMPLE:])))
    elif isinstance(value, bytes | bytearray):
        parts.append((len(value), bytes(value[:_SAMPLE]), bytes(value[-_SAMPLE:])))
    elif isinstance(value, list | tuple):
        parts.append(len(value))
        ahead.extend(_some(value))
    elif isinstance(value, set | frozenset):
        parts.append(len(value))  # their order is another one in each process
    elif isinstance(value, dict):
        parts.append(len(value))
        for pair in _some(list(value.items())):
            ahead.extend(pair)
    elif dataclasses.is_dataclass(value):
        ahead.extend(getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, BaseModel):
        ahead.append(value.__dict__)
    elif is_tensor(type(value)) and (array := as_array(value)) is not None:
        parts.append(_take(array, samples, ahead))


def _some(values: Sequence[Any]) -> Sequence[Any]:
    if len(values) <= 3 * _SAMPLE:
        return values
    middle = len(values) // 2
    return [*values[:_SAMPLE], *values[middle : middle + _SAMPLE], *values[-_SAMPLE:]]


def _take(array: np.ndarray[Any, Any], samples: list[bytes], ahead: deque[Any]) -> Any:
    """Dtype and shape of an array. A sample is added to ``samples``, or to ``ahead`` if its elements are objects."""
    dtype = array.dtype
    name = _NUMBERS.get(dtype.char)
    if name is None:
        name = dtype.str
        if array.size == 0 or dtype.itemsize == 0:
            return name, array.shape
        if dtype.hasobject:
            ahead.extend(array.flat[:: max(1, array.size // _ELEMENTS)].tolist())
            return name, array.shape
        if dtype.names is not None:  # what lies between the fields is whatever lay in memory
            return tuple((field, _take(array[field], samples, ahead)) for field in dtype.names)
    sample = _sample(array)
    if dtype.char in "gG" and np.dtype("g").itemsize > _LONG_DOUBLE:
        sample = np.frombuffer(sample, np.uint8).reshape(-1, np.dtype("g").itemsize)[:, :_LONG_DOUBLE].tobytes()
    samples.append(sample)
    return name, dtype.byteorder, array.shape


def _sample(array: np.ndarray[Any, Any]) -> bytes:
    """Elements from all over an array, by their place in it and not by where they lie in memory."""
    if array.nbytes > _WHOLE and (step := array.size // _ELEMENTS) > 1:
        elements: Any = array.ravel() if array.flags.c_contiguous else array.flat
        return elements[(array.size - 1) % step :: step].tobytes()  # type: ignore[no-any-return]
    return array.tobytes()
