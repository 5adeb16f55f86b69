"""A structure and its leaves -> the item or the state. Malformed structures and unknown names are refused."""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, JsonValue, ValidationError

from asyncprefetch._codec import array_kinds, registry, values
from asyncprefetch._codec.arrays import read_array, read_dtype, read_shape
from asyncprefetch._codec.common import (
    COMPLEX,
    DOUBLE,
    MAX_DEPTH,
    SLOW_KEYS,
    UNSET,
    KeyCheck,
    crowded,
    malformed,
    qualified_name,
    unknown_names,
    validation_text,
)
from asyncprefetch._codec.tensor_nodes import decode_tensor
from asyncprefetch.errors import CheckpointError


def decode(structure: JsonValue, leaves: Sequence[bytes] | None) -> Any:
    """Return what ``structure`` describes. Arrays are writable copies of the leaves.

    Time and memory are bounded by the size of structure and leaves: each leaf is used at most once.

    Raises:
        CheckpointError: the structure is malformed, or names a kind or a tag that is not registered.
    """
    try:
        return _Decoder(leaves).decode(structure, 0)
    except CheckpointError:
        raise
    except Exception as error:  # numpy, or the __hash__ of a registered class, may raise anything for malformed data
        raise malformed(f"{type(error).__name__}: {error}") from error


class _Decoder:
    def __init__(self, leaves: Sequence[bytes] | None) -> None:
        self._leaves = leaves
        self._used: set[int] = set()
        self._keys = KeyCheck()

    def decode(self, node: JsonValue, depth: int) -> Any:
        value = self._value(node, depth)
        if self._keys.depth and self._keys.is_too_slow(value):
            raise malformed(SLOW_KEYS)
        return value

    def _value(self, node: JsonValue, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise malformed(f"nested deeper than {MAX_DEPTH}")
        if node is None or isinstance(node, bool | int | str):
            return node
        if isinstance(node, float):
            if not math.isfinite(node):
                raise malformed(f"{node} is not JSON")
            return node
        if isinstance(node, list):
            return [self.decode(v, depth + 1) for v in node]
        if not isinstance(node, dict):
            raise malformed(f"a {qualified_name(type(node))}")
        if "$" not in node:
            return {k: self.decode(v, depth + 1) for k, v in node.items()}
        method, keys = _DECODERS.get(str(node["$"]), (None, set()))
        if method is None or node.keys() - {"$"} != keys:
            raise malformed(f"node {node['$']!r:.60} with {', '.join(map(repr, node))!s:.200}")
        return method(self, node, depth)

    def _leaf(self, node: dict[str, JsonValue]) -> bytes:
        ref = node["v"]
        if isinstance(ref, str):
            return base64.b64decode(ref, validate=True)
        if self._leaves is None or type(ref) is not int or not 0 <= ref < len(self._leaves):
            raise malformed(f"there is no leaf {ref!r:.60}")
        if ref in self._used:  # otherwise a small file could name a large leaf a million times
            raise malformed(f"leaf {ref} is used twice")
        self._used.add(ref)
        return self._leaves[ref]

    def _list(self, node: dict[str, JsonValue], depth: int, key: str = "v") -> list[Any]:
        values = node[key]
        if not isinstance(values, list):
            raise malformed(f"{node['$']} without a list")
        return [self.decode(v, depth + 1) for v in values]

    def _tuple(self, node: dict[str, JsonValue], depth: int) -> tuple[Any, ...]:
        return tuple(self._list(node, depth))

    def _dict(self, node: dict[str, JsonValue], depth: int) -> dict[Any, Any]:
        self._keys.depth += 1
        keys = self._list(node, depth, "k")
        self._keys.depth -= 1
        if crowded(keys):
            raise malformed("too many keys of one hash")
        read = dict(zip(keys, self._list(node, depth), strict=True))
        if len(read) != len(keys):
            raise malformed("a key twice in a dict")
        return read

    def _int(self, node: dict[str, JsonValue], depth: int) -> int:
        return int(_text(node), 16)

    def _float(self, node: dict[str, JsonValue], depth: int) -> float:
        value: float = DOUBLE.unpack(bytes.fromhex(_text(node)))[0]
        return value

    def _complex(self, node: dict[str, JsonValue], depth: int) -> complex:
        return complex(*COMPLEX.unpack(bytes.fromhex(_text(node))))

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
        return read_array(self._leaf(node), read_dtype(node["dtype"]), (), "C")[()]

    def _array(self, node: dict[str, JsonValue], depth: int) -> npt.NDArray[Any]:
        order = node["order"]
        if order not in ("C", "F"):
            raise malformed(f"order {order!r:.60}")
        return read_array(self._leaf(node), read_dtype(node["dtype"]), read_shape(node["shape"]), order)

    def _registered(self, node: dict[str, JsonValue], depth: int) -> Any:
        tag = node["tag"]
        found = registry.find_tag(tag) if isinstance(tag, str) else None
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
            raise malformed(f"a {node['$']} without fields")
        unknown = unknown_names(cls, given, names)
        if unknown:
            raise malformed(unknown)
        missing = [n for n in names if n not in given]
        if missing:
            raise CheckpointError(f"{qualified_name(cls)} was written without {', '.join(map(repr, missing))}")
        return {n: self.decode(v, depth + 1) for n, v in given.items() if v != UNSET}

    def _model(self, node: dict[str, JsonValue], depth: int) -> BaseModel:
        cls = self._class(node, depth, lambda c: issubclass(c, BaseModel))
        values = self._attributes(node, cls, cls.model_fields, depth)
        extra, private, names = (self.decode(node[part], depth + 1) for part in ("extra", "private", "set"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise malformed("names of fields that are not strings")
        if (extra is not None) != (cls.model_config.get("extra") == "allow"):
            raise malformed(f"extra fields of {qualified_name(cls)}")
        unknown = unknown_names(cls, private or (), cls.__private_attributes__)
        unknown = unknown or unknown_names(cls, names, [*cls.model_fields, *(extra or ())])
        if unknown:
            raise malformed(unknown)
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
        # As in pickle, __init__ and __post_init__ are not called: the values may have changed since they ran.
        value = object.__new__(cls)
        for name, part in self._attributes(node, cls, [f.name for f in dataclasses.fields(cls)], depth).items():
            object.__setattr__(value, name, part)
        return value

    def _namedtuple(self, node: dict[str, JsonValue], depth: int) -> Any:
        cls = self._class(node, depth, lambda c: issubclass(c, tuple) and hasattr(c, "_fields"))
        values = self._list(node, depth)
        if len(values) != len(cls._fields):
            raise malformed(f"{qualified_name(cls)} has {len(cls._fields)} fields, not {len(values)}")
        return tuple.__new__(cls, values)

    def _state(self, node: dict[str, JsonValue], depth: int) -> Any:
        name, version, fields = node["kind"], node["version"], node["fields"]
        kind = registry.find_kind(name) if isinstance(name, str) else None
        if kind is None:
            raise CheckpointError(_unknown("kind", name, "an IteratorState with kind={!r:.100}"))
        # Refuse fields that look like a node: the class would decode them a second time when it validates them.
        if type(version) is not int or version < 1 or not isinstance(fields, dict) or "$" in fields:
            raise malformed(f"state {name!r:.100} of version {version!r:.60}")
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
    "tensor": (decode_tensor, {"dtype", "order", "grad", "v"}),
    **values.DECODERS,
    **array_kinds.DECODERS,
}


def read_state(kind: registry.Kind, values: dict[str, Any], version: int) -> Any:
    """Return a state from its decoded fields, which are upgraded if an earlier version wrote them.

    Raises:
        CheckpointError: the fields are from a newer version, can't be upgraded, or do not fit the class.
    """
    cls: Any = kind.cls
    if version > kind.version:
        raise CheckpointError(
            f"state {kind.name!r} was written as version {version}, and {qualified_name(cls)} here reads up to "
            f"{kind.version}: use the newer code"
        )
    try:
        return cls.model_validate(cls.upgrade(values, version) if version < kind.version else values)
    except CheckpointError:
        raise
    except ValidationError as error:
        raise CheckpointError(
            f"state {kind.name!r} does not fit {qualified_name(cls)}: {validation_text(error)}"
        ) from error
    except Exception as error:  # raised by upgrade() or a validator of the class
        raise CheckpointError(
            f"reading version {version} of state {kind.name!r} by {qualified_name(cls)} failed: "
            f"{type(error).__name__}: {error!s:.2000}"
        ) from error


def _unknown(what: str, name: Any, definition: str) -> str:
    package = str(name).partition(".")[0]
    return (
        f"unknown {what} {name!r:.100}: nothing imported so far defines it. Import the module that has "
        f"{definition.format(name)} (of package or project {package!r:.60}?) before you load the checkpoint"
    )


def _text(node: dict[str, JsonValue]) -> str:
    value = node["v"]
    if not isinstance(value, str):
        raise malformed(f"{node['$']} {value!r:.60}")
    return value
