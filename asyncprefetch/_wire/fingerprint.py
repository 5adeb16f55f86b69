"""A short checksum of an item. A replay compares it with the checksum of the item that was received before.

The checksum covers the item's structure and a few bytes of its leaves. It is the same in every process. It does not depend
on identity, hashing, memory order or padding, so equal items have equal fingerprints however their objects are shared.

The cost is bounded. A long list or dict counts with the parts at both ends and in the middle. A small array counts with all
its bytes, a large one with elements from all over it. A large nest counts with its first parts, which also ends a cycle.
"""

from __future__ import annotations

import dataclasses
import enum
import marshal
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from asyncprefetch._codec.tensors import as_array, is_tensor

NUMBERS = {letter: np.dtype(letter).str for letter in "?bBhHiIlLqQefdFD"}
"""The dtypes of plain numbers: their names by their letters. Two letters of one dtype have one name."""

_ENDS = 16  # leading and trailing elements of a long sequence, or characters of a long text
_MAX_PARTS_WHOLE = 3 * _ENDS  # elements of a sequence or pairs of a dict up to which all of them count
_MAX_WHOLE = 1024  # bytes of an array up to which reading all of it is as cheap as picking elements
_ELEMENTS = 32  # elements that are sampled from a larger array
_MAX_PARTS = 1000
_SCALARS = frozenset({bool, float, complex, type(None)})
_LONG_DOUBLE = 10 if np.finfo(np.longdouble).nmant == 63 else 16  # bytes that are not padding
_LOW_BITS = 2**64 - 1


def fingerprint(item: Any) -> int:
    """The checksum (CRC-32) of any item."""
    parts, samples = _walk(item)
    checksum = _checksum(parts)
    for data in samples:
        checksum = zlib.crc32(data, checksum)
    return checksum


def structure_checksum(item: Any) -> int:
    """The fingerprint without the arrays' samples: :func:`fingerprint` continues it with the sample of each array."""
    return _checksum(_walk(item)[0])


def sample(array: npt.NDArray[Any]) -> bytes:
    """Elements from all over an array, by their index and not by their position in memory."""
    step = sample_step(array)
    if step is None:
        return array.tobytes()
    elements: Any = array.ravel() if array.flags.c_contiguous else array.flat
    return elements[step].tobytes()  # type: ignore[no-any-return]


def sample_step(array: npt.NDArray[Any]) -> slice | None:
    """Which elements of the flattened array are in its sample; ``None``: all of them. Follows from dtype and shape."""
    if array.nbytes > _MAX_WHOLE and (step := array.size // _ELEMENTS) > 1:
        return slice((array.size - 1) % step, None, step)
    return None


def sampled_parts(count: int) -> Sequence[int]:
    """The indices of the parts of a sequence or dict that count, of ``count`` parts."""
    if count <= _MAX_PARTS_WHOLE:
        return range(count)
    middle = count // 2
    return [*range(_ENDS), *range(middle, middle + _ENDS), *range(count - _ENDS, count)]


def _sampled(values: Sequence[Any]) -> Sequence[Any]:
    count = len(values)
    return values if count <= _MAX_PARTS_WHOLE else [values[i] for i in sampled_parts(count)]


def _checksum(parts: list[Any]) -> int:
    # In version 2 of marshal's format the bytes depend on the values alone; later versions write shared objects once.
    return zlib.crc32(marshal.dumps(parts, 2))


def _walk(item: Any) -> tuple[list[Any], list[bytes]]:
    """The parts of the item, and the samples of its arrays."""
    parts: list[Any] = []
    samples: list[bytes] = []
    ahead: deque[Any] = deque([item])
    while ahead and len(parts) < _MAX_PARTS:
        value = ahead.popleft()
        cls = type(value)
        if cls is np.ndarray:
            parts.append(_add_array(value, samples, ahead))
        elif cls is str and len(value) <= 2 * _ENDS:
            parts.append(value)
        elif cls is dict and len(value) <= _ENDS:
            parts.append(len(value))
            for pair in value.items():
                ahead.extend(pair)
        elif cls in _SCALARS:
            parts.append(value)
        else:
            if not issubclass(cls, np.generic):  # one dtype may have two classes
                parts.append(cls.__name__)
            _add(value, parts, samples, ahead)
    return parts, samples


def _add(value: Any, parts: list[Any], samples: list[bytes], ahead: deque[Any]) -> None:
    """Add the value's own content to ``parts`` and ``samples``, and the objects that it consists of to ``ahead``."""
    if isinstance(value, enum.Enum):
        parts.append(value.name)
    elif isinstance(value, int):
        parts.append(int(value) if value.bit_length() <= 64 else (value.bit_length(), value & _LOW_BITS))
    elif isinstance(value, np.ma.MaskedArray):
        ahead.extend((np.ma.filled(value, 0), np.ma.getmaskarray(value)))  # masked elements are undefined
    elif isinstance(value, np.ndarray | np.generic):
        parts.append(_add_array(np.asarray(value), samples, ahead))
    elif isinstance(value, str):
        parts.append((len(value), str(value[:_ENDS]), str(value[-_ENDS:])))
    elif isinstance(value, bytes | bytearray):
        parts.append((len(value), bytes(value[:_ENDS]), bytes(value[-_ENDS:])))
    elif isinstance(value, list | tuple):
        parts.append(len(value))
        ahead.extend(_sampled(value))
    elif isinstance(value, set | frozenset):
        parts.append(len(value))  # the order of the elements differs between processes
    elif isinstance(value, dict):
        parts.append(len(value))
        for pair in _sampled(list(value.items())):
            ahead.extend(pair)
    elif dataclasses.is_dataclass(value):
        ahead.extend(getattr(value, field.name, None) for field in dataclasses.fields(value))
    elif isinstance(value, BaseModel):
        ahead.append(value.__dict__)
    elif is_tensor(type(value)) and (array := as_array(value)) is not None:
        parts.append(_add_array(array, samples, ahead))


def _add_array(array: npt.NDArray[Any], samples: list[bytes], ahead: deque[Any]) -> Any:
    """Dtype and shape of an array. Its sample is added to ``samples``; objects in it are added to ``ahead``."""
    dtype = array.dtype
    name = NUMBERS.get(dtype.char)
    if name is None:
        name = dtype.str
        if array.size == 0 or dtype.itemsize == 0:
            return name, array.shape
        if dtype.hasobject:
            # numpy's flat iterator fails for long texts of StringDType.
            elements: Any = array.ravel() if dtype.char == "T" else array.flat
            ahead.extend(elements[:: max(1, array.size // _ELEMENTS)].tolist())
            return name, array.shape
        if dtype.names is not None:  # the padding between the fields is undefined
            return tuple((field, _add_array(array[field], samples, ahead)) for field in dtype.names)
    data = sample(array)
    if dtype.char in "gG" and np.dtype("g").itemsize > _LONG_DOUBLE:
        data = np.frombuffer(data, np.uint8).reshape(-1, np.dtype("g").itemsize)[:, :_LONG_DOUBLE].tobytes()
    samples.append(data)
    return name, dtype.byteorder, array.shape
