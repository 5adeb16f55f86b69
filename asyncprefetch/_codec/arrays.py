"""Arrays as bytes and their dtypes as JSON, and back: every bit and every property of the dtype is kept."""

from __future__ import annotations

import importlib
import math
import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from asyncprefetch._codec.common import is_utf8, malformed, refuse
from asyncprefetch.errors import CheckpointError

_PLAIN_DTYPE = re.compile(r"[<>|][bBiufcSUV][0-9]{1,10}|[<>][mM]8(\[[0-9]{0,10}[A-Za-z]{1,2}\])?")
_ML_DTYPES = "ml_dtypes"
"""The package that defines bfloat16, float8, int4 and others for numpy."""
_ML_DTYPE = re.compile(r"[a-z][a-z0-9_]{0,30}")

_MOST_OF_NOTHING = 1 << 16


def is_vast(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
    """Return whether an array without bytes has so many rows or elements that iterating over it would never end.

    A few bytes of a hostile file can name such an array where a state declares a tuple.
    """
    rows = math.prod(n for n in shape if n)
    return rows > _MOST_OF_NOTHING and (0 in shape or dtype.itemsize == 0)


def raw_bytes(array: npt.NDArray[Any], order: Literal["C", "F"] = "C") -> bytes:
    """Return the bytes of all items, one after another."""
    # View it as one field: tobytes() of a structure fills the padding between fields with arbitrary memory.
    whole = array.view(f"V{array.dtype.itemsize}") if array.dtype.fields else array
    return whole.tobytes(order)


def describe_dtype(dtype: np.dtype[Any], path: str) -> JsonValue:
    described = _dtype_structure(dtype)
    try:
        read = None if described is None else read_dtype(described)
    except (CheckpointError, ValueError, TypeError):
        read = None
    # With == alone, an aligned structure equals a packed one, and a record equals a void.
    if read is None or read != dtype or repr(read) != repr(dtype):
        refuse(path, f"a checkpoint can't hold dtype {dtype!r}")
    return described


def _dtype_structure(dtype: np.dtype[Any]) -> JsonValue:
    """Return the dtype as JSON, or ``None`` if it, or a part of it, has properties that JSON can't describe."""
    if dtype.metadata is not None:
        return None
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _dtype_structure(base), "shape": list(shape)}
    if dtype.type.__module__ == _ML_DTYPES:
        return {_ML_DTYPES: dtype.name}
    if dtype.fields is None:
        return dtype.str
    fields: list[JsonValue] = []
    for name in dtype.names or ():
        part, offset, *titles = dtype.fields[name]
        title = titles[0] if titles else None
        if not is_utf8(name) or not (title is None or (isinstance(title, str) and is_utf8(title))):
            return None
        fields.append([name, _dtype_structure(part), offset, title])
    record: dict[str, JsonValue] = {"record": True} if dtype.type is np.record else {}
    return {"fields": fields, "itemsize": dtype.itemsize, "aligned": dtype.isalignedstruct, **record}


def read_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    if math.prod(shape) * dtype.itemsize != len(data):
        raise malformed(f"dtype {dtype} and shape {shape!r:.60} do not fit {len(data)} bytes")
    if is_vast(dtype, shape):
        raise malformed(f"an array of no bytes and of shape {shape!r:.60}")
    # np.empty would turn strings of length 0 into strings of length 1.
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, order=order)
    if data:
        # Copy bytes: assigning items would leave arbitrary memory in the padding of structures.
        flat = (array.T if order == "F" else array).reshape(-1)
        flat.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
    return array


def read_shape(given: JsonValue) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > 64 or not all(type(n) is int and n >= 0 for n in given):
        raise malformed(f"shape {given!r:.60}")
    return tuple(given)  # type: ignore[arg-type]


def read_dtype(described: JsonValue, depth: int = 0) -> np.dtype[Any]:
    # Accept only what _dtype_structure writes: numpy accepts many more strings, some of which mean objects.
    if isinstance(described, str) and _PLAIN_DTYPE.fullmatch(described):
        return np.dtype(described)
    if isinstance(described, dict) and depth < 16:
        if depth and described.keys() == {"base", "shape"}:
            return np.dtype((read_dtype(described["base"], depth + 1), read_shape(described["shape"])))
        if described.keys() == {_ML_DTYPES}:
            return _read_ml_dtype(described[_ML_DTYPES])
        fields = described.get("fields")
        record = described.get("record") is True
        known = {"fields", "itemsize", "aligned", *(["record"] if record else [])}
        if described.keys() == known and isinstance(fields, list):
            names, parts, offsets, titles = zip(*fields, strict=True) if fields else ((), (), (), ())
            structure = {
                "names": names,
                "formats": [read_dtype(part, depth + 1) for part in parts],
                "offsets": offsets,
                "titles": titles,
                "itemsize": described["itemsize"],
            }
            dtype: np.dtype[Any] = np.dtype(structure, align=described["aligned"] is True)  # type: ignore[call-overload]
            return np.dtype((np.record, dtype)) if record else dtype
    raise malformed(f"dtype {described!r:.60}")


def _read_ml_dtype(name: JsonValue) -> np.dtype[Any]:
    """Return a dtype of ml_dtypes. The package is imported here: the name in the file chooses one of its scalar types."""
    if not isinstance(name, str) or not _ML_DTYPE.fullmatch(name):
        raise malformed(f"a dtype of {_ML_DTYPES} named {name!r:.60}")
    try:
        package = importlib.import_module(_ML_DTYPES)
    except ImportError as error:
        raise CheckpointError(
            f"the checkpoint holds an array of dtype {name!r}: install the package {_ML_DTYPES}, and load it again"
        ) from error
    found = vars(package).get(name)
    if not isinstance(found, type) or not issubclass(found, np.generic):
        raise CheckpointError(
            f"the version of {_ML_DTYPES} that is installed has no dtype {name!r}: install a newer one"
        )
    return np.dtype(found)
