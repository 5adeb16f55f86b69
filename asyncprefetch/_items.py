"""The checkpoint codec: a nest of known and registered types <-> JSON structure and raw leaves.

The structure is plain JSON. What JSON can't say is an object with the key ``"$"``: ``{"$": "tuple", "v": [...]}``. The
bytes of arrays and strings of bytes are *leaves*: they lie outside of the structure, in a list, and the structure
holds their index; or, where there is no list (the JSON of one iterator state), in the structure as base64.

Decoding constructs built-in types, numpy arrays, and classes that were registered (``_registry``), nothing else.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import math
import struct
import types
from collections.abc import Callable, Sequence
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from asyncprefetch import _registry
from asyncprefetch.errors import CheckpointError

MAX_DEPTH = 100
"""Deepest nesting of one item or state: far beyond any real one, and far below the interpreter's recursion limit."""

_MAX_INT = 2**63
_COMPLEX = struct.Struct("<dd")
_DOUBLE = struct.Struct("<d")


class Unsupported(CheckpointError):
    """A checkpoint can't hold a value; the message names its path in the nest and the reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


# ---------------------------------------------------------------------------------------------------------- encode


def encode(item: Any, leaves: list[bytes] | None, *, name: str = "item") -> JsonValue:
    """The structure of ``item``; its raw leaves are copied and appended to ``leaves``, or inlined if that is ``None``.

    Raises:
        CheckpointError: a part of the item is of a type that a checkpoint can't hold; the message names its path.
    """
    return _Encoder(leaves, coerce=False).encode(item, name, 0)


def encode_state(state: BaseModel, leaves: list[bytes] | None) -> JsonValue:
    """The structure of an iterator state, by its runtime type, with every nested state by its own.

    Fields of further types that pydantic can turn into JSON (paths, enums, dates) are written so, and are read back
    through the declared type of their field.

    Raises:
        CheckpointError: a field can't be held by a checkpoint, or a state's class has no kind.
    """
    return _Encoder(leaves, coerce=True).encode(state, "state", 0)


def explain_unsupported(item: Any) -> str | None:
    """Where and why a checkpoint can't hold ``item``, or ``None`` if it can. Copies no array."""
    try:
        _Encoder(None, coerce=False, dry=True).encode(item, "item", 0)
    except Unsupported as error:
        return str(error)
    return None


class _Encoder:
    def __init__(self, leaves: list[bytes] | None, *, coerce: bool, dry: bool = False) -> None:
        self._leaves = leaves
        self._coerce = coerce
        self._dry = dry

    def encode(self, value: Any, path: str, depth: int) -> JsonValue:
        if depth > MAX_DEPTH:
            raise Unsupported(path, f"nested deeper than {MAX_DEPTH}")
        method = _ENCODERS.get(type(value))
        if method is not None:
            return method(self, value, path, depth)
        if isinstance(value, np.generic):
            return {"$": "scalar", "dtype": self._dtype(value.dtype, path), "v": _base64(value.tobytes())}
        return self._registered(value, path, depth)

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
        if _is_utf8(value):
            return value
        return {"$": "str", "v": _base64(value.encode("utf-8", "surrogatepass"))}

    def _bytes(self, value: bytes, path: str, depth: int) -> JsonValue:
        return {"$": type(value).__name__, "v": self._leaf(lambda: bytes(value))}

    def _list(self, value: list[Any], path: str, depth: int) -> JsonValue:
        return [self.encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]

    def _tuple(self, value: tuple[Any, ...], path: str, depth: int) -> JsonValue:
        return {"$": "tuple", "v": [self.encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)]}

    def _dict(self, value: dict[Any, Any], path: str, depth: int) -> JsonValue:
        if all(type(k) is str and _is_utf8(k) for k in value) and "$" not in value:
            return {k: self.encode(v, f"{path}[{k!r}]", depth + 1) for k, v in value.items()}
        pairs: list[JsonValue] = [
            [self.encode(k, f"{path} key {k!r:.60}", depth + 1), self.encode(v, f"{path}[{k!r:.60}]", depth + 1)]
            for k, v in value.items()
        ]
        return {"$": "dict", "v": pairs}

    def _array(self, value: npt.NDArray[Any], path: str, depth: int) -> JsonValue:
        # Memory order travels with it: a Fortran array comes back as one.
        fortran = value.flags.f_contiguous and not value.flags.c_contiguous
        structure: dict[str, JsonValue] = {
            "$": "array",
            "dtype": self._dtype(value.dtype, path),
            "shape": list(value.shape),
            "v": self._leaf(lambda: value.tobytes("F" if fortran else "C")),
        }
        if fortran:
            structure["order"] = "F"
        return structure

    def _dtype(self, dtype: np.dtype[Any], path: str) -> JsonValue:
        described: JsonValue = (
            json.loads(json.dumps(np.lib.format.dtype_to_descr(dtype))) if not dtype.hasobject else None
        )
        if described is None or _read_dtype(described) != dtype:
            raise Unsupported(path, f"a checkpoint can't hold arrays of dtype {dtype!r}")
        return described

    def _registered(self, value: Any, path: str, depth: int) -> JsonValue:
        cls = type(value)
        kind = _registry.kind_of(cls)
        if kind is not None:
            fields = {n: self.encode(getattr(value, n), f"{path}.{n}", depth + 1) for n in cls.model_fields}
            return {"$": "state", "kind": kind.name, "version": kind.version, "fields": fields}
        if _registry.tag_of(value) is not None:
            return {"$": "registered", "tag": _registry.tag_of(value)}
        tag = _registry.tag_of(cls)
        if tag is not None:
            return self._object(value, tag, path, depth)
        if self._coerce:
            return self._by_declared_type(value, path, depth)
        if dataclasses.is_dataclass(value) or isinstance(value, BaseModel) or hasattr(cls, "_fields"):
            self._refuse(path, f"{_name(cls)} is not registered; decorate it with @asyncprefetch.register('your.tag')")
        if callable(value) and hasattr(value, "__qualname__"):
            self._refuse(
                path, f"{_name(value)} is not registered; decorate it with @asyncprefetch.register('your.tag')"
            )
        self._refuse(path, f"a checkpoint can't hold a {_name(cls)}; use numpy arrays, built-in or registered types")

    def _refuse(self, path: str, reason: str) -> NoReturn:
        raise Unsupported(path, reason)

    def _object(self, value: Any, tag: str, path: str, depth: int) -> JsonValue:
        cls = type(value)
        if isinstance(value, BaseModel):
            # What pickle carries over, so that both ways of crossing give the same object.
            parts = value.__getstate__()
            state = {
                "values": dict(parts["__dict__"]),
                "extra": parts["__pydantic_extra__"],
                "set": sorted(parts["__pydantic_fields_set__"]),
                "private": parts["__pydantic_private__"],
            }
            return {"$": "model", "tag": tag, "v": self.encode(state, path, depth + 1)}
        if dataclasses.is_dataclass(value):
            names = [f.name for f in dataclasses.fields(value)]
            extra = set(getattr(value, "__dict__", ())) - set(names)
            if extra:
                raise Unsupported(path, f"{_name(cls)} has attributes that are no fields: {', '.join(sorted(extra))}")
            fields = {n: self.encode(getattr(value, n), f"{path}.{n}", depth + 1) for n in names if hasattr(value, n)}
            return {"$": "dataclass", "tag": tag, "v": fields}
        if isinstance(value, tuple) and hasattr(cls, "_fields"):
            return {
                "$": "namedtuple",
                "tag": tag,
                "v": [self.encode(v, f"{path}[{i}]", depth + 1) for i, v in enumerate(value)],
            }
        raise Unsupported(path, f"{_name(cls)} is registered, but is no dataclass, pydantic model or named tuple")

    def _by_declared_type(self, value: Any, path: str, depth: int) -> JsonValue:
        # Only for fields of states: pydantic rebuilds the declared type when the state is read.
        cls = type(value)
        if isinstance(value, BaseModel):
            return {n: self.encode(getattr(value, n), f"{path}.{n}", depth + 1) for n in cls.model_fields}
        if dataclasses.is_dataclass(value):
            return {
                f.name: self.encode(getattr(value, f.name), f"{path}.{f.name}", depth + 1)
                for f in dataclasses.fields(value)
            }
        if isinstance(value, set | frozenset):
            return self.encode(list(value), path, depth)
        if callable(value):
            self._refuse(
                path, f"{_name(value)} is not registered; decorate it with @asyncprefetch.register('your.tag')"
            )
        try:
            plain = to_jsonable_python(value)
        except (PydanticSerializationError, ValueError):
            self._refuse(path, f"a checkpoint can't hold a {_name(cls)}")
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
}


# ---------------------------------------------------------------------------------------------------------- decode


def decode(structure: JsonValue, leaves: Sequence[bytes] | None) -> Any:
    """What ``structure`` describes, with arrays of its own (writable copies of the leaves).

    Raises:
        CheckpointError: the structure is malformed, or names a kind or a tag that is not registered.
    """
    try:
        return _Decoder(leaves).decode(structure, 0)
    except CheckpointError:
        raise
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, struct.error) as error:
        raise CheckpointError(f"malformed structure: {type(error).__name__}: {error}") from error


class _Decoder:
    def __init__(self, leaves: Sequence[bytes] | None) -> None:
        self._leaves = leaves

    def decode(self, node: JsonValue, depth: int) -> Any:
        if depth > MAX_DEPTH + 2:
            raise CheckpointError(f"malformed structure: nested deeper than {MAX_DEPTH}")
        if isinstance(node, list):
            return [self.decode(v, depth + 1) for v in node]
        if not isinstance(node, dict):
            return node
        if "$" not in node:
            return {k: self.decode(v, depth + 1) for k, v in node.items()}
        method = _DECODERS.get(node["$"]) if isinstance(node["$"], str) else None
        if method is None:
            raise CheckpointError(f"malformed structure: unknown node {node['$']!r:.60}")
        return method(self, node, depth)

    def _leaf(self, node: dict[str, JsonValue]) -> bytes:
        ref = node["v"]
        if isinstance(ref, str):
            try:
                return base64.b64decode(ref, validate=True)
            except binascii.Error as error:
                raise CheckpointError(f"malformed structure: bad base64: {error}") from None
        if (
            self._leaves is None
            or not isinstance(ref, int)
            or isinstance(ref, bool)
            or not 0 <= ref < len(self._leaves)
        ):
            raise CheckpointError(f"malformed structure: there is no leaf {ref!r:.60}")
        return self._leaves[ref]

    def _list(self, node: dict[str, JsonValue], depth: int) -> list[Any]:
        values = node["v"]
        if not isinstance(values, list):
            raise CheckpointError(f"malformed structure: {node['$']} without a list")
        return [self.decode(v, depth + 1) for v in values]

    def _tuple(self, node: dict[str, JsonValue], depth: int) -> Any:
        return tuple(self._list(node, depth))

    def _dict(self, node: dict[str, JsonValue], depth: int) -> Any:
        return {key: value for key, value in self._list(node, depth)}  # noqa: C416 - each is checked to be a pair

    def _int(self, node: dict[str, JsonValue], depth: int) -> int:
        return int(_text(node), 16)

    def _float(self, node: dict[str, JsonValue], depth: int) -> float:
        value: float = _DOUBLE.unpack(bytes.fromhex(_text(node)))[0]
        return value

    def _complex(self, node: dict[str, JsonValue], depth: int) -> complex:
        return complex(*_COMPLEX.unpack(bytes.fromhex(_text(node))))

    def _str(self, node: dict[str, JsonValue], depth: int) -> str:
        return base64.b64decode(_text(node), validate=True).decode("utf-8", "surrogatepass")

    def _bytes(self, node: dict[str, JsonValue], depth: int) -> bytes:
        return self._leaf(node)

    def _bytearray(self, node: dict[str, JsonValue], depth: int) -> bytearray:
        return bytearray(self._leaf(node))

    def _scalar(self, node: dict[str, JsonValue], depth: int) -> Any:
        data = base64.b64decode(_text(node), validate=True)
        array = np.frombuffer(data, _read_dtype(node["dtype"])) if data else np.zeros(1, _read_dtype(node["dtype"]))
        return array[0]

    def _array(self, node: dict[str, JsonValue], depth: int) -> npt.NDArray[Any]:
        dtype, given = _read_dtype(node["dtype"]), node["shape"]
        shape = tuple(n for n in given if isinstance(n, int) and n >= 0) if isinstance(given, list) else None
        if shape is None or not isinstance(given, list) or len(shape) != len(given):
            raise CheckpointError(f"malformed structure: shape {given!r:.60}")
        order: Literal["C", "F"] = "F" if node.get("order") == "F" else "C"
        data = self._leaf(node)
        if math.prod(shape) * dtype.itemsize != len(data):
            raise CheckpointError(
                f"malformed structure: an array of dtype {dtype} and shape {shape!r:.60} does not have {len(data)} bytes"
            )
        array = np.empty(shape, dtype, order)
        if data:
            array[...] = np.frombuffer(data, dtype).reshape(shape, order=order)
        return array

    def _class(self, node: dict[str, JsonValue], what: str) -> Any:
        cls = self._registered(node, 0)
        fits = (
            isinstance(cls, type)
            and {
                "model": issubclass(cls, BaseModel),
                "dataclass": dataclasses.is_dataclass(cls),
                "namedtuple": issubclass(cls, tuple) and hasattr(cls, "_fields"),
            }[what]
        )
        if not fits:
            raise CheckpointError(f"the tag {node['tag']!r} does not name a {what}")
        return cls

    def _registered(self, node: dict[str, JsonValue], depth: int) -> Any:
        tag = node["tag"]
        found = _registry.find_tag(tag) if isinstance(tag, str) else None
        if found is None:
            raise CheckpointError(_unknown("tag", tag, "@register({!r})"))
        return found

    def _model(self, node: dict[str, JsonValue], depth: int) -> BaseModel:
        cls = self._class(node, "model")
        parts = self.decode(node["v"], depth + 1)
        values, private = parts["values"], parts["private"]
        _check_names(cls, values, cls.model_fields)
        _check_names(cls, private or (), cls.__private_attributes__)
        _check_names(cls, parts["set"], [*cls.model_fields, *(parts["extra"] or ())])
        if parts["extra"] is not None and cls.model_config.get("extra") != "allow":
            raise CheckpointError(f"malformed structure: {_name(cls)} takes no extra fields")
        model: BaseModel = cls.__new__(cls)
        model.__setstate__(
            {
                "__dict__": values,
                "__pydantic_extra__": parts["extra"],
                "__pydantic_fields_set__": set(parts["set"]),
                "__pydantic_private__": private,
            }
        )
        return model

    def _dataclass(self, node: dict[str, JsonValue], depth: int) -> Any:
        cls = self._class(node, "dataclass")
        fields = node["v"]
        if not isinstance(fields, dict):
            raise CheckpointError("malformed structure: a dataclass without fields")
        _check_names(cls, fields, [f.name for f in dataclasses.fields(cls)])
        # As pickle does it: no __init__ and no __post_init__, which may have run on other values.
        value = object.__new__(cls)
        for name, part in fields.items():
            object.__setattr__(value, name, self.decode(part, depth + 1))
        return value

    def _namedtuple(self, node: dict[str, JsonValue], depth: int) -> Any:
        cls = self._class(node, "namedtuple")
        values = self._list(node, depth)
        if len(values) != len(cls._fields):
            raise CheckpointError(f"malformed structure: {_name(cls)} has {len(cls._fields)} fields, not {len(values)}")
        return tuple.__new__(cls, values)

    def _state(self, node: dict[str, JsonValue], depth: int) -> Any:
        name, version, fields = node["kind"], node["version"], node["fields"]
        kind = _registry.find_kind(name) if isinstance(name, str) else None
        if kind is None:
            raise CheckpointError(_unknown("kind", name, "an IteratorState with kind={!r}"))
        if not isinstance(version, int) or isinstance(version, bool) or version < 1 or not isinstance(fields, dict):
            raise CheckpointError(f"malformed structure: state {name!r} of version {version!r:.60}")
        values = {k: self.decode(v, depth + 1) for k, v in fields.items()}
        return read_state(kind, values, version)


_DECODERS: dict[str, Callable[[_Decoder, dict[str, JsonValue], int], Any]] = {
    "tuple": _Decoder._tuple,
    "dict": _Decoder._dict,
    "int": _Decoder._int,
    "float": _Decoder._float,
    "complex": _Decoder._complex,
    "str": _Decoder._str,
    "bytes": _Decoder._bytes,
    "bytearray": _Decoder._bytearray,
    "scalar": _Decoder._scalar,
    "array": _Decoder._array,
    "registered": _Decoder._registered,
    "model": _Decoder._model,
    "dataclass": _Decoder._dataclass,
    "namedtuple": _Decoder._namedtuple,
    "state": _Decoder._state,
}


def read_state(kind: _registry.Kind, values: dict[str, Any], version: int) -> Any:
    """A state from the decoded fields that a file holds, upgraded if they were written by an earlier version.

    Raises:
        CheckpointError: the fields are of a newer version, can't be upgraded, or don't fit the class.
    """
    if version > kind.version:
        raise CheckpointError(
            f"state {kind.name!r} was written as version {version}, and {_name(kind.cls)} here reads up to "
            f"{kind.version}: use the newer code"
        )
    if version < kind.version:
        values = kind.cls.upgrade(values, version)  # type: ignore[attr-defined]
    try:
        return kind.cls.model_validate(values)  # type: ignore[attr-defined]
    except ValidationError as error:
        raise CheckpointError(f"state {kind.name!r} does not fit {_name(kind.cls)}: {error}") from error


def _unknown(what: str, name: Any, definition: str) -> str:
    package = str(name).partition(".")[0]
    return (
        f"unknown {what} {name!r:.100}: nothing imported so far defines it. Import the module that has "
        f"{definition.format(name)} (of package or project {package!r:.60}?) before you load the checkpoint"
    )


def _check_names(cls: Any, names: Any, known: Any) -> None:
    unknown = set(names) - set(known)
    if unknown:
        raise CheckpointError(f"malformed structure: {_name(cls)} has no field {', '.join(map(repr, sorted(unknown)))}")


def _read_dtype(described: JsonValue) -> np.dtype[Any]:
    dtype = np.lib.format.descr_to_dtype(_tuples(described))
    if dtype.hasobject:
        raise CheckpointError("malformed structure: an array of objects")
    return dtype


def _tuples(described: JsonValue, depth: int = 0) -> Any:
    # JSON has lists for the tuples in numpy's description of a structured dtype: [name, type] or [name, type, shape].
    if isinstance(described, str):
        return described
    if not isinstance(described, list) or depth > 8:
        raise CheckpointError(f"malformed structure: dtype {described!r:.60}")
    return [_field(field, depth) for field in described]


def _field(field: JsonValue, depth: int) -> Any:
    if not isinstance(field, list) or len(field) not in {2, 3}:
        raise CheckpointError(f"malformed structure: dtype field {field!r:.60}")
    name = tuple(field[0]) if isinstance(field[0], list) else field[0]
    shape = tuple(field[2]) if len(field) == 3 and isinstance(field[2], list) else None
    kind = _tuples(field[1], depth + 1)
    return (name, kind) if len(field) == 2 else (name, kind, shape)


def _text(node: dict[str, JsonValue]) -> str:
    value = node["v"]
    if not isinstance(value, str):
        raise CheckpointError(f"malformed structure: {node['$']} {value!r:.60}")
    return value


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _is_utf8(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name(obj: Any) -> str:
    return f"{obj.__module__}.{obj.__qualname__}"
