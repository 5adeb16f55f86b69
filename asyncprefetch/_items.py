"""The checkpoint codec: a nest of known and registered types <-> JSON structure and raw leaves.

The structure is plain JSON. What JSON can't say is an object with the key ``"$"``, a *node*: ``{"$": "tuple", "v": []}``.
The bytes of arrays, strings of bytes and long texts are *leaves*: they lie outside of the structure, in a list, and the
structure holds their index; or, where there is no list (the JSON of one iterator state), in the structure as base64.

Decoding constructs built-in types, numpy arrays, and classes that were registered (``_registry``), nothing else.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import math
import re
import struct
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from asyncprefetch import _registry
from asyncprefetch.errors import CheckpointError

MAX_DEPTH = 64
"""Deepest nesting of one item or state: far beyond any real one. A level is at most two of JSON, and pydantic's parser
takes 200 of those."""

_MAX_INT = 2**63
_LONG_TEXT = 256  # from so many characters on a text is a leaf: in a file's header it would be escaped twice over
_COMPLEX = struct.Struct("<dd")
_DOUBLE = struct.Struct("<d")
_PLAIN_DTYPE = re.compile(r"[<>|][bBiufcSUV][0-9]{1,10}|[<>][mM]8(\[[0-9]{0,10}[A-Za-z]{1,2}\])?")
_UNSET: JsonValue = {"$": "unset"}  # in place of the value of a dataclass field that has none
_BUILT_IN = (dict, list, tuple, set, frozenset, deque, str, bytes, bytearray, int, float, complex, np.ndarray)


class UnsupportedError(CheckpointError):
    """A checkpoint can't hold a value; the message names its path in the nest and the reason."""


# ---------------------------------------------------------------------------------------------------------- encode


def encode(item: Any, leaves: list[bytes] | None, *, name: str = "item") -> JsonValue:
    """The structure of ``item``; its raw leaves are copied and appended to ``leaves``, or inlined if that is ``None``.

    Raises:
        CheckpointError: a part of the item is of a type that a checkpoint can't hold; the message names its path.
            Some leaves may have been appended by then.
    """
    return _Encoder(leaves, coerce=False).encode(item, name, 0)


def encode_state(state: BaseModel, leaves: list[bytes] | None) -> JsonValue:
    """The structure of an iterator state, by its runtime type, with every nested state by its own.

    Fields of further types that pydantic can turn into JSON (paths, enums, dates, unregistered models) are written so,
    and read back through the declared type of their field. A state that has such fields is read back at once, to see
    that they come back as they were.

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
                what = f"a {_name(was[0])} would be read back as something else"
                _refuse(path, f"{what}; declare it as the field's type, or register it")
        if json.dumps(read) != json.dumps(structure) or mirror != leaves:  # by ==, 1 would be 1.0
            _refuse("state", "a field would be read back as something else; declare exact types")
    return structure


def explain_unsupported(item: Any) -> str | None:
    """Where and why a checkpoint can't hold ``item``, or ``None`` if it can. Copies no array."""
    try:
        _Encoder(None, coerce=False, dry=True).encode(item, "item", 0)
    except UnsupportedError as error:
        return str(error)
    return None


def raw_bytes(array: npt.NDArray[Any], order: Literal["C", "F"] = "C") -> bytes:
    """The bytes of all items, one after another."""
    # As one field: tobytes() of a view fills the padding between fields with whatever lies in memory.
    whole = array.view(f"V{array.dtype.itemsize}") if array.dtype.fields else array
    return whole.tobytes(order)


class _Encoder:
    def __init__(self, leaves: list[bytes] | None, *, coerce: bool, dry: bool = False) -> None:
        self._leaves = leaves
        self._coerce = coerce
        self._dry = dry
        self.coerced: dict[str, tuple[type, Any]] = {}
        """What only the declared type of its field can restore: path -> (type, what the structure does not show)."""

    def encode(self, value: Any, path: str, depth: int) -> JsonValue:
        if depth > MAX_DEPTH:
            _refuse(path, f"nested deeper than {MAX_DEPTH}")
        method = _ENCODERS.get(type(value))
        if method is not None:
            return method(self, value, path, depth)
        if isinstance(value, np.generic) and type(value) is value.dtype.type:
            return {"$": "scalar", "dtype": _describe_dtype(value.dtype, path), "v": _base64(value.tobytes())}
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
        # All bits of a NaN are kept: its sign and payload may mean something to whoever made it.
        return value if math.isfinite(value) else {"$": "float", "v": _DOUBLE.pack(value).hex()}

    def _complex(self, value: complex, path: str, depth: int) -> JsonValue:
        return {"$": "complex", "v": _COMPLEX.pack(value.real, value.imag).hex()}

    def _str(self, value: str, path: str, depth: int) -> JsonValue:
        if _is_utf8(value) and (self._leaves is None or len(value) < _LONG_TEXT):
            return value
        return {"$": "str", "v": self._leaf(lambda: _utf8(value))}

    def _numpy_str(self, value: np.str_, path: str, depth: int) -> JsonValue:
        # Not a "scalar": as an array of one element it would lose NULs at its end.
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
        if all(type(k) is str and _is_utf8(k) for k in value) and "$" not in value:
            return {k: self.encode(v, f"{path}[{k!r}]", depth + 1) for k, v in value.items()}
        keys: list[JsonValue] = [self.encode(k, f"{path} key {k!r:.60}", depth + 1) for k in value]
        return {
            "$": "dict",
            "k": keys,
            "v": [self.encode(v, f"{path}[{k!r:.60}]", depth + 1) for k, v in value.items()],
        }

    def _array(self, value: npt.NDArray[Any], path: str, depth: int) -> JsonValue:
        # Memory order travels with it: a Fortran array comes back as one.
        order: Literal["C", "F"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        return {
            "$": "array",
            "dtype": _describe_dtype(value.dtype, path),
            "shape": list(value.shape),
            "order": order,
            "v": self._leaf(lambda: raw_bytes(value, order)),
        }

    def _object(self, value: Any, path: str, depth: int) -> JsonValue:
        cls = type(value)
        kind = _registry.kind_of(cls)
        if kind is not None:
            fields = self._fields(value, cls.model_fields, path, depth)
            return {"$": "state", "kind": kind.name, "version": kind.version, "fields": fields}
        if callable(value):
            tag = _registry.tag_of(value)
            if tag is not None:
                return {"$": "registered", "tag": tag}
        tag = _registry.tag_of(cls)
        if tag is not None:
            return self._tagged(value, tag, path, depth)
        if self._coerce:
            return self._by_declared_type(value, path, depth)
        return _refuse_type(value, path)

    def _fields(self, value: Any, names: Any, path: str, depth: int) -> dict[str, JsonValue]:
        try:
            values = {n: getattr(value, n) for n in names} | (getattr(value, "__pydantic_extra__", None) or {})
        except AttributeError as error:
            _refuse(path, f"an incomplete {_name(type(value))}: {error}")
        if "$" in values:
            _refuse(path, f"{_name(type(value))} has an extra field of a name that can't be written: '$'")
        return {n: self.encode(v, f"{path}.{n}", depth + 1) for n, v in values.items()}

    def _tagged(self, value: Any, tag: str, path: str, depth: int) -> JsonValue:
        cls = type(value)
        if isinstance(value, BaseModel):
            # What pickle carries over, so that both ways of crossing give the same object.
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
        return _refuse(path, f"{_name(cls)} is registered, but is no plain dataclass, pydantic model or named tuple")

    def _attributes(self, cls: Any, held: dict[str, Any], names: Any, path: str, depth: int) -> JsonValue:
        unknown = _unknown_names(cls, held, names)
        if unknown:
            _refuse(path, unknown)
        encoded = {n: self.encode(v, f"{path}.{n}", depth + 1) for n, v in held.items()}
        return encoded | {n: _UNSET for n in names if n not in held}

    def _by_declared_type(self, value: Any, path: str, depth: int) -> JsonValue:
        # Only within states: pydantic rebuilds the declared type when the state is read.
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
            # In an order that does not change from one process to the next, as a set's own does.
            self.coerced[path] = (cls, None)
            return self._list(sorted(value, key=repr), path, depth)
        if callable(value) or isinstance(value, Iterator):  # pydantic would use an iterator up
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
    np.str_: _Encoder._numpy_str,
    np.bytes_: _Encoder._numpy_bytes,
}


def _refuse(path: str, reason: str) -> NoReturn:
    raise UnsupportedError(f"{path}: {reason}")


def _refuse_type(value: Any, path: str) -> NoReturn:
    cls = type(value)
    named_tuple = isinstance(value, tuple) and hasattr(cls, "_fields")
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel) or named_tuple or _is_definition(value):
        what = _name(value if _is_definition(value) else cls)
        _refuse(path, f"{what} is not registered; decorate it with @asyncprefetch.register('your.tag')")
    _refuse(path, f"a checkpoint can't hold a {_name(cls)}; use numpy arrays, built-in or registered types")


def _held(value: Any) -> dict[str, Any]:
    """All that an instance holds, in its ``__dict__`` and in its slots."""
    state: Any = object.__getstate__(value)
    parts = state if isinstance(state, tuple) else (state,)
    return {name: v for part in parts if part for name, v in part.items()}


def _unknown_names(cls: Any, names: Any, known: Any) -> str:
    """What to say of attributes that are neither fields nor cached properties; empty if there are none."""
    unknown = set(names).difference(known)
    if unknown:  # looked up only now, for it is rare and slow
        cached = (n for c in cls.__mro__ for n, v in vars(c).items() if isinstance(v, functools.cached_property))
        unknown.difference_update(cached)
    return f"{_name(cls)} has no field {', '.join(sorted(map(repr, unknown)))}" if unknown else ""


def _describe_dtype(dtype: np.dtype[Any], path: str) -> JsonValue:
    described = _dtype_structure(dtype)
    try:
        read = None if described is None else _read_dtype(described)
    except (CheckpointError, ValueError, TypeError):
        read = None
    # Equality alone takes an aligned structure for a packed one, and a record for a void.
    if read is None or read != dtype or repr(read) != repr(dtype):
        _refuse(path, f"a checkpoint can't hold dtype {dtype!r}")
    return described


def _dtype_structure(dtype: np.dtype[Any]) -> JsonValue:
    """The dtype as JSON; ``None``, also for a part, where it has parts of which nothing is known."""
    if dtype.metadata is not None:
        return None
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _dtype_structure(base), "shape": list(shape)}
    if dtype.fields is None:
        return dtype.str
    fields: list[JsonValue] = []
    for name in dtype.names or ():
        part, offset, *titles = dtype.fields[name]
        title = titles[0] if titles else None
        if not _is_utf8(name) or not (title is None or (isinstance(title, str) and _is_utf8(title))):
            return None
        fields.append([name, _dtype_structure(part), offset, title])
    return {"fields": fields, "itemsize": dtype.itemsize, "aligned": dtype.isalignedstruct}


# ---------------------------------------------------------------------------------------------------------- decode


def decode(structure: JsonValue, leaves: Sequence[bytes] | None) -> Any:
    """What ``structure`` describes, with arrays of its own (writable copies of the leaves).

    Time and memory are bounded by the size of structure and leaves: one call uses each leaf once.

    Raises:
        CheckpointError: the structure is malformed, or names a kind or a tag that is not registered.
    """
    try:
        return _Decoder(leaves).decode(structure, 0)
    except CheckpointError:
        raise
    except Exception as error:  # whatever numpy, or a registered class's own __hash__, makes of malformed data
        raise CheckpointError(f"malformed structure: {type(error).__name__}: {error}") from error


class _Decoder:
    def __init__(self, leaves: Sequence[bytes] | None) -> None:
        self._leaves = leaves
        self._used: set[int] = set()

    def decode(self, node: JsonValue, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _malformed(f"nested deeper than {MAX_DEPTH}")
        if node is None or isinstance(node, bool | int | str):
            return node
        if isinstance(node, float):
            if not math.isfinite(node):
                raise _malformed(f"{node} is no JSON")
            return node
        if isinstance(node, list):
            return [self.decode(v, depth + 1) for v in node]
        if not isinstance(node, dict):
            raise _malformed(f"a {_name(type(node))}")
        if "$" not in node:
            return {k: self.decode(v, depth + 1) for k, v in node.items()}
        method, keys = _DECODERS.get(str(node["$"]), (None, set()))
        if method is None or node.keys() - {"$"} != keys:
            raise _malformed(f"node {node['$']!r:.60} with {', '.join(map(repr, node))!s:.200}")
        return method(self, node, depth)

    def _leaf(self, node: dict[str, JsonValue]) -> bytes:
        ref = node["v"]
        if isinstance(ref, str):
            return base64.b64decode(ref, validate=True)
        if self._leaves is None or type(ref) is not int or not 0 <= ref < len(self._leaves):
            raise _malformed(f"there is no leaf {ref!r:.60}")
        if ref in self._used:  # a small file could name a large leaf a million times
            raise _malformed(f"leaf {ref} is used twice")
        self._used.add(ref)
        return self._leaves[ref]

    def _list(self, node: dict[str, JsonValue], depth: int, key: str = "v") -> list[Any]:
        values = node[key]
        if not isinstance(values, list):
            raise _malformed(f"{node['$']} without a list")
        return [self.decode(v, depth + 1) for v in values]

    def _tuple(self, node: dict[str, JsonValue], depth: int) -> tuple[Any, ...]:
        return tuple(self._list(node, depth))

    def _dict(self, node: dict[str, JsonValue], depth: int) -> dict[Any, Any]:
        keys = self._list(node, depth, "k")
        read = dict(zip(keys, self._list(node, depth), strict=True))
        if len(read) != len(keys):
            raise _malformed("a key twice in a dict")
        return read

    def _int(self, node: dict[str, JsonValue], depth: int) -> int:
        return int(_text(node), 16)

    def _float(self, node: dict[str, JsonValue], depth: int) -> float:
        value: float = _DOUBLE.unpack(bytes.fromhex(_text(node)))[0]
        return value

    def _complex(self, node: dict[str, JsonValue], depth: int) -> complex:
        return complex(*_COMPLEX.unpack(bytes.fromhex(_text(node))))

    def _str(self, node: dict[str, JsonValue], depth: int) -> str:
        return self._leaf(node).decode("utf-8", "surrogatepass")

    def _numpy_str(self, node: dict[str, JsonValue], depth: int) -> np.str_:
        return np.str_(self._str(node, depth))

    def _bytes(self, node: dict[str, JsonValue], depth: int) -> bytes:
        return self._leaf(node)

    def _bytearray(self, node: dict[str, JsonValue], depth: int) -> bytearray:
        return bytearray(self._leaf(node))

    def _numpy_bytes(self, node: dict[str, JsonValue], depth: int) -> np.bytes_:
        return np.bytes_(self._leaf(node))

    def _scalar(self, node: dict[str, JsonValue], depth: int) -> Any:
        return _read_array(self._leaf(node), _read_dtype(node["dtype"]), (), "C")[()]

    def _array(self, node: dict[str, JsonValue], depth: int) -> npt.NDArray[Any]:
        order = node["order"]
        if order not in ("C", "F"):
            raise _malformed(f"order {order!r:.60}")
        return _read_array(self._leaf(node), _read_dtype(node["dtype"]), _read_shape(node["shape"]), order)

    def _registered(self, node: dict[str, JsonValue], depth: int) -> Any:
        tag = node["tag"]
        found = _registry.find_tag(tag) if isinstance(tag, str) else None
        if found is None:
            raise CheckpointError(_unknown("tag", tag, "@register({!r:.100})"))
        return found

    def _class(self, node: dict[str, JsonValue], depth: int, fits: Callable[[type], bool]) -> Any:
        cls = self._registered(node, depth)
        if not isinstance(cls, type) or not fits(cls):
            raise CheckpointError(f"the tag {node['tag']!r} does not name a {node['$']}")
        return cls

    def _attributes(self, node: dict[str, JsonValue], cls: Any, names: Any, depth: int) -> dict[str, Any]:
        given = node["v"]
        if not isinstance(given, dict):
            raise _malformed(f"a {node['$']} without fields")
        unknown = _unknown_names(cls, given, names)
        if unknown:
            raise _malformed(unknown)
        missing = [n for n in names if n not in given]
        if missing:
            raise CheckpointError(f"{_name(cls)} was written without {', '.join(map(repr, missing))}")
        return {n: self.decode(v, depth + 1) for n, v in given.items() if v != _UNSET}

    def _model(self, node: dict[str, JsonValue], depth: int) -> BaseModel:
        cls = self._class(node, depth, lambda c: issubclass(c, BaseModel))
        values = self._attributes(node, cls, cls.model_fields, depth)
        extra, private, names = (self.decode(node[part], depth + 1) for part in ("extra", "private", "set"))
        if (extra is not None) != (cls.model_config.get("extra") == "allow"):
            raise _malformed(f"extra fields of {_name(cls)}")
        unknown = _unknown_names(cls, private or (), cls.__private_attributes__)
        unknown = unknown or _unknown_names(cls, names, [*cls.model_fields, *(extra or ())])
        if unknown:
            raise _malformed(unknown)
        model: BaseModel = cls.__new__(cls)
        model.__setstate__(
            {
                "__dict__": values,
                "__pydantic_extra__": extra,
                "__pydantic_fields_set__": set(names),
                "__pydantic_private__": private,
            }
        )
        return model

    def _dataclass(self, node: dict[str, JsonValue], depth: int) -> Any:
        cls = self._class(node, depth, dataclasses.is_dataclass)
        # As pickle does it: no __init__ and no __post_init__, which may have run on other values.
        value = object.__new__(cls)
        for name, part in self._attributes(node, cls, [f.name for f in dataclasses.fields(cls)], depth).items():
            object.__setattr__(value, name, part)
        return value

    def _namedtuple(self, node: dict[str, JsonValue], depth: int) -> Any:
        cls = self._class(node, depth, lambda c: issubclass(c, tuple) and hasattr(c, "_fields"))
        values = self._list(node, depth)
        if len(values) != len(cls._fields):
            raise _malformed(f"{_name(cls)} has {len(cls._fields)} fields, not {len(values)}")
        return tuple.__new__(cls, values)

    def _state(self, node: dict[str, JsonValue], depth: int) -> Any:
        name, version, fields = node["kind"], node["version"], node["fields"]
        kind = _registry.find_kind(name) if isinstance(name, str) else None
        if kind is None:
            raise CheckpointError(_unknown("kind", name, "an IteratorState with kind={!r:.100}"))
        # Fields that look like a node would be decoded a second time when the class validates them.
        if type(version) is not int or version < 1 or not isinstance(fields, dict) or "$" in fields:
            raise _malformed(f"state {name!r:.100} of version {version!r:.60}")
        return read_state(kind, {k: self.decode(v, depth + 1) for k, v in fields.items()}, version)


_DECODERS: dict[str, tuple[Callable[[_Decoder, dict[str, JsonValue], int], Any], set[str]]] = {
    "tuple": (_Decoder._tuple, {"v"}),
    "dict": (_Decoder._dict, {"k", "v"}),
    "int": (_Decoder._int, {"v"}),
    "float": (_Decoder._float, {"v"}),
    "complex": (_Decoder._complex, {"v"}),
    "str": (_Decoder._str, {"v"}),
    "bytes": (_Decoder._bytes, {"v"}),
    "bytearray": (_Decoder._bytearray, {"v"}),
    "numpy.str": (_Decoder._numpy_str, {"v"}),
    "numpy.bytes": (_Decoder._numpy_bytes, {"v"}),
    "scalar": (_Decoder._scalar, {"dtype", "v"}),
    "array": (_Decoder._array, {"dtype", "shape", "order", "v"}),
    "registered": (_Decoder._registered, {"tag"}),
    "model": (_Decoder._model, {"tag", "v", "extra", "private", "set"}),
    "dataclass": (_Decoder._dataclass, {"tag", "v"}),
    "namedtuple": (_Decoder._namedtuple, {"tag", "v"}),
    "state": (_Decoder._state, {"kind", "version", "fields"}),
}


def read_state(kind: _registry.Kind, values: dict[str, Any], version: int) -> Any:
    """A state from the decoded fields that a file holds, upgraded if they were written by an earlier version.

    Raises:
        CheckpointError: the fields are of a newer version, can't be upgraded, or don't fit the class.
    """
    cls: Any = kind.cls
    if version > kind.version:
        raise CheckpointError(
            f"state {kind.name!r} was written as version {version}, and {_name(cls)} here reads up to "
            f"{kind.version}: use the newer code"
        )
    try:
        return cls.model_validate(cls.upgrade(values, version) if version < kind.version else values)
    except CheckpointError:
        raise
    except ValidationError as error:
        raise CheckpointError(f"state {kind.name!r} does not fit {_name(cls)}: {error}") from error
    except Exception as error:  # of the class's own upgrade() or validators
        raise CheckpointError(
            f"reading version {version} of state {kind.name!r} by {_name(cls)} failed: {type(error).__name__}: {error}"
        ) from error


def _malformed(reason: str) -> CheckpointError:
    return CheckpointError(f"malformed structure: {reason}")


def _unknown(what: str, name: Any, definition: str) -> str:
    package = str(name).partition(".")[0]
    return (
        f"unknown {what} {name!r:.100}: nothing imported so far defines it. Import the module that has "
        f"{definition.format(name)} (of package or project {package!r:.60}?) before you load the checkpoint"
    )


def _read_array(data: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any) -> npt.NDArray[Any]:
    if math.prod(shape) * dtype.itemsize != len(data):
        raise _malformed(f"dtype {dtype} and shape {shape!r:.60} do not make {len(data)} bytes")
    # Not np.empty, which turns strings of length 0 into strings of length 1.
    array: npt.NDArray[Any] = np.ndarray(shape, dtype, order=order)
    if data:
        # As bytes: assigning items would leave the padding of structures as it lay in memory.
        flat = (array.T if order == "F" else array).reshape(-1)
        flat.view(np.uint8)[:] = np.frombuffer(data, np.uint8)
    return array


def _read_shape(given: JsonValue) -> tuple[int, ...]:
    if not isinstance(given, list) or len(given) > 64 or not all(type(n) is int and n >= 0 for n in given):
        raise _malformed(f"shape {given!r:.60}")
    return tuple(given)  # type: ignore[arg-type]


def _read_dtype(described: JsonValue, depth: int = 0) -> np.dtype[Any]:
    # Only what _dtype_structure writes: numpy's own reader knows many more strings, objects among them.
    if isinstance(described, str) and _PLAIN_DTYPE.fullmatch(described):
        return np.dtype(described)
    if isinstance(described, dict) and depth < 16:
        if depth and described.keys() == {"base", "shape"}:
            return np.dtype((_read_dtype(described["base"], depth + 1), _read_shape(described["shape"])))
        fields = described.get("fields")
        if described.keys() == {"fields", "itemsize", "aligned"} and isinstance(fields, list):
            names, parts, offsets, titles = zip(*fields, strict=True) if fields else ((), (), (), ())
            structure = {
                "names": names,
                "formats": [_read_dtype(part, depth + 1) for part in parts],
                "offsets": offsets,
                "titles": titles,
                "itemsize": described["itemsize"],
            }
            return np.dtype(structure, align=described["aligned"] is True)  # type: ignore[call-overload,no-any-return]
    raise _malformed(f"dtype {described!r:.60}")


def _text(node: dict[str, JsonValue]) -> str:
    value = node["v"]
    if not isinstance(value, str):
        raise _malformed(f"{node['$']} {value!r:.60}")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_definition(value: Any) -> bool:
    return callable(value) and hasattr(value, "__qualname__")


def _name(obj: Any) -> str:
    return f"{getattr(obj, '__module__', None)}.{obj.__qualname__}"
