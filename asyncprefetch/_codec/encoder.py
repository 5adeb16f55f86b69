"""An item or a state -> its structure and its leaves."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, JsonValue
from pydantic_core import PydanticSerializationError, to_jsonable_python

from asyncprefetch._codec import array_kinds, registry, values
from asyncprefetch._codec.arrays import describe_dtype, raw_bytes
from asyncprefetch._codec.common import (
    COMPLEX,
    DOUBLE,
    MAX_DEPTH,
    SLOW_KEYS,
    UNSET,
    KeyCheck,
    UnsupportedError,
    brief,
    crowded,
    is_utf8,
    qualified_name,
    refuse,
    unknown_names,
)
from asyncprefetch._codec.decoder import decode
from asyncprefetch._codec.tensor_nodes import encode_tensor
from asyncprefetch._codec.tensors import is_tensor
from asyncprefetch.errors import CheckpointError

_MAX_INT = 2**63
_LONG_TEXT = 256  # a text with this many characters is a leaf: in the header of a file it would be escaped twice
_BUILT_IN = (dict, list, tuple, set, frozenset, deque, str, bytes, bytearray, int, float, complex, np.ndarray)


def encode(item: Any, leaves: list[bytes] | None, *, name: str = "item") -> JsonValue:
    """Return the structure of ``item``. Copies of its raw leaves are appended to ``leaves``, or inlined if that is ``None``.

    Raises:
        CheckpointError: a part of the item has a type that a checkpoint can't hold; the message names its path.
            Some leaves may have been appended already.
    """
    return _encoded(_Encoder(leaves, coerce=False), item, name)


def encode_state(state: BaseModel, leaves: list[bytes] | None) -> JsonValue:
    """Return the structure of an iterator state by its runtime type, with every nested state by its own.

    Fields of other types that pydantic can convert to JSON (paths, enums, dates, unregistered models) are written in that
    form, and read through the declared type of their field. A state with such fields is read back at once, to check that
    they come back unchanged.

    Raises:
        CheckpointError: a field can't be held by a checkpoint, or would be read back as something else.
    """
    start = 0 if leaves is None else len(leaves)
    encoder = _Encoder(leaves, coerce=True)
    structure = encoder.encode(state, "state", 0)
    if encoder.coerced:
        mirror = None if leaves is None else leaves[:start]
        again = _Encoder(mirror, coerce=True)
        try:
            read = again.encode(decode(structure, leaves), "state", 0)
        except CheckpointError as error:
            raise UnsupportedError(f"state: it could not be read back: {error}") from error
        for path, was in encoder.coerced.items():
            if again.coerced.get(path) != was:
                what = f"a {qualified_name(was[0])} would be read back as something else"
                refuse(path, f"{what}; declare it as the field's type, or register it")
        if json.dumps(read) != json.dumps(structure) or mirror != leaves:  # with ==, 1 equals 1.0
            refuse("state", "a field would be read back as something else; declare exact types")
    return structure


def explain_unsupported(item: Any) -> str | None:
    """Return where and why a checkpoint can't hold ``item``, or ``None`` if it can. Copies no array."""
    try:
        _encoded(_Encoder(None, coerce=False, dry=True), item, "item")
    except UnsupportedError as error:
        return str(error)
    return None


def _encoded(encoder: _Encoder, item: Any, name: str) -> JsonValue:
    try:
        return encoder.encode(item, name, 0)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # numpy and torch raise many errors for values that they support in part
        reason = f"{type(error).__name__}: {error!s:.500}"
        what = f"a checkpoint can't hold this {qualified_name(type(item))}: {reason}"
        raise UnsupportedError(f"{name}: {what}") from error


class _Encoder:
    def __init__(self, leaves: list[bytes] | None, *, coerce: bool, dry: bool = False) -> None:
        self._leaves = leaves
        self._coerce = coerce
        self._dry = dry
        self._keys = KeyCheck()
        self.coerced: dict[str, tuple[type, Any]] = {}
        """What only the declared type of its field can restore: path -> (type, what the structure does not show)."""

    def encode(self, value: Any, path: str, depth: int) -> JsonValue:
        if depth > MAX_DEPTH:
            refuse(path, f"nested deeper than {MAX_DEPTH}")
        if self._keys.depth and self._keys.is_too_slow(value):
            refuse(path, SLOW_KEYS)
        method = _ENCODERS.get(type(value))
        if method is not None and not (self._coerce and values.needs_declared_type(value)):
            return method(self, value, path, depth)
        if isinstance(value, np.generic) and type(value) is value.dtype.type:
            return {"$": "scalar", "dtype": describe_dtype(value.dtype, path), "v": _base64(value.tobytes())}
        if isinstance(value, np.ndarray) and (encode_kind := array_kinds.find_encoder(value)) is not None:
            return encode_kind(self, value, path, depth)
        if is_tensor(type(value)):
            return encode_tensor(self, value, path, depth)
        return self._object(value, path, depth)

    def _leaf(self, data: Callable[[], bytes]) -> JsonValue:
        if self._dry:
            return None
        if self._leaves is None:
            return _base64(data())
        self._leaves.append(data())
        return len(self._leaves) - 1

    def _same(self, value: Any, path: str, depth: int) -> JsonValue:
        return value  # type: ignore[no-any-return]

    def _int(self, value: int, path: str, depth: int) -> JsonValue:
        return value if -_MAX_INT <= value < _MAX_INT else {"$": "int", "v": hex(value)}

    def _float(self, value: float, path: str, depth: int) -> JsonValue:
        # Keep all bits of a NaN: its sign and payload may have a meaning.
        return value if math.isfinite(value) else {"$": "float", "v": DOUBLE.pack(value).hex()}

    def _complex(self, value: complex, path: str, depth: int) -> JsonValue:
        return {"$": "complex", "v": COMPLEX.pack(value.real, value.imag).hex()}

    def _str(self, value: str, path: str, depth: int) -> JsonValue:
        if is_utf8(value) and (self._leaves is None or len(value) < _LONG_TEXT):
            return value
        return {"$": "str", "v": self._leaf(lambda: _utf8(value))}

    def _numpy_str(self, value: np.str_, path: str, depth: int) -> JsonValue:
        # It is not written as "scalar": an array of one element would lose NULs at the end.
        return {"$": "numpy.str", "v": self._leaf(lambda: _utf8(value))}

    def _numpy_bytes(self, value: np.bytes_, path: str, depth: int) -> JsonValue:
        return {"$": "numpy.bytes", "v": self._leaf(lambda: bytes(value))}

    def _bytes(self, value: bytes | bytearray, path: str, depth: int) -> JsonValue:
        return {"$": type(value).__name__, "v": self._leaf(lambda: bytes(value))}

    def _list(self, value: Sequence[Any], path: str, depth: int) -> list[JsonValue]:
        return [self.encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int) -> JsonValue:
        return {"$": "tuple", "v": self._list(value, path, depth)}

    def _dict(self, value: Mapping[Any, Any], path: str, depth: int) -> JsonValue:
        if all(type(k) is str and is_utf8(k) for k in value) and "$" not in value:
            return {k: self.encode(v, f"{path}[{k!r}]", depth + 1) for k, v in value.items()}
        if crowded(value):  # the decoder would refuse it
            refuse(path, "too many keys of one hash")
        self._keys.depth += 1
        keys: list[JsonValue] = [self.encode(k, f"{path} key {brief(k)}", depth + 1) for k in value]
        self._keys.depth -= 1
        return {
            "$": "dict",
            "k": keys,
            "v": [self.encode(v, f"{path}[{brief(k)}]", depth + 1) for k, v in value.items()],
        }

    def _array(self, value: npt.NDArray[Any], path: str, depth: int) -> JsonValue:
        if value.dtype.hasobject and (encode_kind := array_kinds.find_encoder(value)) is not None:
            return encode_kind(self, value, path, depth)
        array_kinds.refuse_vast(value, path)
        order = array_kinds.memory_order(value)
        return {
            "$": "array",
            "dtype": describe_dtype(value.dtype, path),
            "shape": list(value.shape),
            "order": order,
            "v": self._leaf(lambda: raw_bytes(value, order)),
        }

    def _object(self, value: Any, path: str, depth: int) -> JsonValue:
        cls = type(value)
        kind = registry.kind_of(cls)
        if kind is not None:
            fields = self._fields(value, cls.model_fields, path, depth)
            return {"$": "state", "kind": kind.name, "version": kind.version, "fields": fields}
        if callable(value):
            tag = registry.tag_of(value)
            if tag is not None:
                return {"$": "registered", "tag": tag}
        tag = registry.tag_of(cls)
        if tag is not None:
            return self._tagged(value, tag, path, depth)
        if self._coerce:
            return self._by_declared_type(value, path, depth)
        return _refuse_type(value, path)

    def _fields(self, value: Any, names: Any, path: str, depth: int) -> dict[str, JsonValue]:
        try:
            values = {n: getattr(value, n) for n in names} | (getattr(value, "__pydantic_extra__", None) or {})
        except AttributeError as error:
            refuse(path, f"an incomplete {qualified_name(type(value))}: {error}")
        if "$" in values:
            refuse(path, f"{qualified_name(type(value))} has an extra field with a name that can't be written: '$'")
        return {n: self.encode(v, f"{path}.{n}", depth + 1) for n, v in values.items()}

    def _tagged(self, value: Any, tag: str, path: str, depth: int) -> JsonValue:
        cls = type(value)
        if isinstance(value, BaseModel):
            # The same parts as in pickle, so that the codec and pickle give the same object.
            parts = value.__getstate__()
            return {
                "$": "model",
                "tag": tag,
                "v": self._attributes(cls, parts["__dict__"], cls.model_fields, path, depth),
                "extra": self.encode(parts["__pydantic_extra__"], path, depth + 1),
                "private": self.encode(parts["__pydantic_private__"], path, depth + 1),
                "set": self.encode(sorted(parts["__pydantic_fields_set__"]), path, depth + 1),
            }
        if dataclasses.is_dataclass(value) and not isinstance(value, _BUILT_IN):
            held = self._attributes(cls, _held(value), [f.name for f in dataclasses.fields(value)], path, depth)
            return {"$": "dataclass", "tag": tag, "v": held}
        if isinstance(value, tuple) and hasattr(cls, "_fields") and not getattr(value, "__dict__", None):
            return {"$": "namedtuple", "tag": tag, "v": self._list(value, path, depth)}
        return refuse(
            path, f"{qualified_name(cls)} is registered, but is not a plain dataclass, pydantic model or named tuple"
        )

    def _attributes(self, cls: Any, held: dict[str, Any], names: Any, path: str, depth: int) -> JsonValue:
        unknown = unknown_names(cls, held, names)
        if unknown:
            refuse(path, unknown)
        encoded = {n: self.encode(v, f"{path}.{n}", depth + 1) for n, v in held.items()}
        return encoded | {n: UNSET for n in names if n not in held}

    def _by_declared_type(self, value: Any, path: str, depth: int) -> JsonValue:
        # Only in states: pydantic rebuilds the declared type when it reads the state.
        cls = type(value)
        if isinstance(value, BaseModel):
            self.coerced[path] = (cls, None)
            return self._fields(value, cls.model_fields, path, depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, _BUILT_IN):
            self.coerced[path] = (cls, None)
            return self._fields(value, [f.name for f in dataclasses.fields(value)], path, depth)
        if isinstance(value, dict):
            self.coerced[path] = (cls, getattr(value, "default_factory", None))
            return self._dict(value, path, depth)
        if isinstance(value, list | tuple | deque):
            self.coerced[path] = (cls, getattr(value, "maxlen", None))
            return self._list(value, path, depth)
        if isinstance(value, set | frozenset):
            # In a fixed order: the order of a set differs from process to process.
            self.coerced[path] = (cls, None)
            return self._list(sorted(value, key=repr), path, depth)
        if callable(value) or isinstance(value, Iterator):  # pydantic would exhaust an iterator
            _refuse_type(value, path)
        try:
            plain = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError, TypeError):
            _refuse_type(value, path)
        self.coerced[path] = (cls, value)
        return self.encode(plain, path, depth + 1)


_ENCODERS: dict[type, Callable[[_Encoder, Any, str, int], JsonValue]] = {
    types.NoneType: _Encoder._same,
    bool: _Encoder._same,
    int: _Encoder._int,
    float: _Encoder._float,
    complex: _Encoder._complex,
    str: _Encoder._str,
    bytes: _Encoder._bytes,
    bytearray: _Encoder._bytes,
    list: _Encoder._list,
    tuple: _Encoder._tuple,
    dict: _Encoder._dict,
    np.ndarray: _Encoder._array,
    np.memmap: _Encoder._array,  # it comes back as a plain array, as it crosses to the consumer
    np.str_: _Encoder._numpy_str,
    np.bytes_: _Encoder._numpy_bytes,
    **values.ENCODERS,
}


def _refuse_type(value: Any, path: str) -> NoReturn:
    cls = type(value)
    named_tuple = isinstance(value, tuple) and hasattr(cls, "_fields")
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel) or named_tuple or _is_definition(value):
        what = qualified_name(value if _is_definition(value) else cls)
        refuse(path, f"{what} is not registered; decorate it with @asyncprefetch.register('your.tag')")
    advice = values.advice(value)
    if advice is not None:
        refuse(path, f"a checkpoint can't hold a {qualified_name(cls)}, {advice}")
    if isinstance(value, np.ndarray):
        what = "which is a subclass of numpy.ndarray; yield a plain array: numpy.asarray(value) makes one"
        refuse(path, f"a checkpoint can't hold a {qualified_name(cls)}, {what}")
    if cls.__module__.partition(".")[0] == "pyarrow" and hasattr(value, "as_py"):
        refuse(path, f"a checkpoint can't hold a {qualified_name(cls)}; yield the Python value: as_py() makes one")
    refuse(path, f"a checkpoint can't hold a {qualified_name(cls)}; use numpy arrays, built-in or registered types")


def _held(value: Any) -> dict[str, Any]:
    """Return all attributes of an instance, in its ``__dict__`` and in its slots."""
    state: Any = object.__getstate__(value)
    parts = state if isinstance(state, tuple) else (state,)
    return {name: v for part in parts if part for name, v in part.items()}


def _is_definition(value: Any) -> bool:
    return callable(value) and hasattr(value, "__qualname__")


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
