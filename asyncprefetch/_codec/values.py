"""The standard library's value types as nodes: times, numbers, identifiers and paths.

Each type has a node kind. A value comes back with its type and all its properties: the time zone and ``fold`` of a time, the
exponent and the NaN payload of a decimal, ``is_safe`` of a UUID. Decoding checks each part before it calls a constructor. It
takes time in proportion to the size of the node.

A time zone is held by its name, and reading a value of that zone reads the zone's rules from the system's time zone database
or from the package ``tzdata``.
"""

from __future__ import annotations

import datetime
import decimal
import pathlib
import re
import uuid
import zoneinfo
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from pydantic import JsonValue

from asyncprefetch._codec.common import Decoding, Encoding, Node, malformed, qualified_name, refuse
from asyncprefetch.errors import CheckpointError

_DECIMAL = re.compile(r"-?(?:[0-9]+(?:\.[0-9]+)?(?:[Ee][+-]?[0-9]{1,19})?|Infinity|s?NaN[0-9]*)")
# The context of the program may accept any text, and return NaN.
_STRICT = decimal.Context(traps=[decimal.InvalidOperation])

_MAX_FRACTION = 1 << 12
"""Bits. Making a fraction computes a greatest common divisor, which takes quadratic time."""

_ZONE_TYPES = (datetime.timezone, zoneinfo.ZoneInfo)
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]{0,30}(?:/[A-Za-z0-9_+-]{1,30}){0,3}")
_UUID = re.compile(r"[0-9a-f]{32}")

_PATHS: tuple[type[pathlib.PurePath], ...] = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
)
_PATH_CLASSES = {cls.__name__: cls for cls in _PATHS}


def _encode_date(encoder: Encoding, value: datetime.date, path: str, depth: int) -> JsonValue:
    return {"$": "date", "v": [value.year, value.month, value.day]}


def _encode_datetime(encoder: Encoding, value: datetime.datetime, path: str, depth: int) -> JsonValue:
    parts: list[JsonValue] = [value.year, value.month, value.day]
    parts += [value.hour, value.minute, value.second, value.microsecond, value.fold]
    return {"$": "datetime", "v": parts, "zone": _encode_zone(encoder, value, path, depth)}


def _encode_time(encoder: Encoding, value: datetime.time, path: str, depth: int) -> JsonValue:
    parts: list[JsonValue] = [value.hour, value.minute, value.second, value.microsecond, value.fold]
    return {"$": "time", "v": parts, "zone": _encode_zone(encoder, value, path, depth)}


def needs_declared_type(value: Any) -> bool:
    """Return whether a state should hold the value in the form of JSON, which the declared type of its field restores.

    pydantic parses times to time zones of its own. A path should be one of the system that reads the state.
    """
    if type(value) in (datetime.datetime, datetime.time):
        return value.tzinfo is not None and type(value.tzinfo) not in _ZONE_TYPES
    return type(value) in (pathlib.PosixPath, pathlib.WindowsPath)


def _encode_zone(encoder: Encoding, value: datetime.datetime | datetime.time, path: str, depth: int) -> JsonValue:
    zone = value.tzinfo
    if zone is not None and type(zone) not in _ZONE_TYPES:
        what = f"a {type(value).__qualname__} with a tzinfo of class {qualified_name(type(zone))}"
        refuse(path, f"a checkpoint can't hold {what}; use datetime.timezone or zoneinfo.ZoneInfo")
    return encoder.encode(zone, f"{path}.tzinfo", depth + 1)


def _encode_timedelta(encoder: Encoding, value: datetime.timedelta, path: str, depth: int) -> JsonValue:
    return {"$": "timedelta", "v": [value.days, value.seconds, value.microseconds]}


def _encode_timezone(encoder: Encoding, value: datetime.timezone, path: str, depth: int) -> JsonValue:
    offset = value.utcoffset(None)
    # Only repr() shows whether a zone has a name of its own that equals the name made from its offset.
    name = None if repr(datetime.timezone(offset)) == repr(value) else encoder.encode(value.tzname(None), path, depth)
    return {"$": "timezone", "v": [offset.days, offset.seconds, offset.microseconds], "name": name}


def _encode_zoneinfo(encoder: Encoding, value: zoneinfo.ZoneInfo, path: str, depth: int) -> JsonValue:
    if value.key is None or not _ZONE.fullmatch(value.key):
        refuse(path, f"a checkpoint holds a ZoneInfo by its key, and can't hold one with the key {value.key!r:.60}")
    return {"$": "zoneinfo", "v": value.key}


def _encode_decimal(encoder: Encoding, value: decimal.Decimal, path: str, depth: int) -> JsonValue:
    # The text is exact, and short for any exponent.
    return {"$": "decimal", "v": encoder.encode(str(value), path, depth)}


def _encode_fraction(encoder: Encoding, value: Fraction, path: str, depth: int) -> JsonValue:
    parts = (value.numerator, value.denominator)
    if any(part.bit_length() > _MAX_FRACTION for part in parts):
        refuse(path, f"a checkpoint can't hold a Fraction of more than {_MAX_FRACTION} bits")
    return {"$": "fraction", "v": [hex(part) for part in parts]}


def _encode_uuid(encoder: Encoding, value: uuid.UUID, path: str, depth: int) -> JsonValue:
    return {"$": "uuid", "v": value.hex, "safe": value.is_safe.value}


def _encode_path(encoder: Encoding, value: pathlib.PurePath, path: str, depth: int) -> JsonValue:
    return {"$": "path", "class": type(value).__name__, "v": encoder.encode(str(value), path, depth)}


def _decode_date(decoder: Decoding, node: Node, depth: int) -> datetime.date:
    return datetime.date(*_ints(node, 3))


def _decode_datetime(decoder: Decoding, node: Node, depth: int) -> datetime.datetime:
    *parts, fold = _ints(node, 8)
    return datetime.datetime(*parts, tzinfo=_decode_zone(decoder, node, depth), fold=fold)  # type: ignore[misc,arg-type]


def _decode_time(decoder: Decoding, node: Node, depth: int) -> datetime.time:
    *parts, fold = _ints(node, 5)
    return datetime.time(*parts, tzinfo=_decode_zone(decoder, node, depth), fold=fold)  # type: ignore[misc,arg-type]


def _decode_zone(decoder: Decoding, node: Node, depth: int) -> datetime.tzinfo | None:
    zone = decoder.decode(node["zone"], depth + 1)
    # Any other object with the methods of a zone would have them called by every comparison.
    if zone is not None and type(zone) not in _ZONE_TYPES:
        raise malformed(f"a time zone of class {qualified_name(type(zone))}")
    return zone  # type: ignore[no-any-return]


def _decode_timedelta(decoder: Decoding, node: Node, depth: int) -> datetime.timedelta:
    return datetime.timedelta(*_ints(node, 3))


def _decode_timezone(decoder: Decoding, node: Node, depth: int) -> datetime.timezone:
    offset = datetime.timedelta(*_ints(node, 3))
    if node["name"] is None:
        return datetime.timezone(offset)
    return datetime.timezone(offset, _text(decoder, node, "name", depth))


def _decode_zoneinfo(decoder: Decoding, node: Node, depth: int) -> zoneinfo.ZoneInfo:
    key = node["v"]
    if not isinstance(key, str) or not _ZONE.fullmatch(key):
        raise malformed(f"a time zone with the key {key!r:.60}")
    try:
        return zoneinfo.ZoneInfo(key)
    except Exception as error:  # the database may have a folder or another file of that name
        raise CheckpointError(
            f"the time zone {key!r} can't be read here: install the system's time zone database or the package tzdata"
        ) from error


def _decode_decimal(decoder: Decoding, node: Node, depth: int) -> decimal.Decimal:
    text = _text(decoder, node, "v", depth)
    if not _DECIMAL.fullmatch(text):
        raise malformed(f"decimal {text!r:.60}")
    return decimal.Decimal(text, _STRICT)


def _decode_fraction(decoder: Decoding, node: Node, depth: int) -> Fraction:
    given = node["v"]
    if not isinstance(given, list) or len(given) != 2:
        raise malformed(f"fraction {given!r:.60}")
    digits = [part for part in given if isinstance(part, str) and len(part) <= _MAX_FRACTION // 4 + 3]
    if len(digits) != 2:
        raise malformed("a fraction of parts that are not numbers or are too long")
    return Fraction(int(digits[0], 16), int(digits[1], 16))


def _decode_uuid(decoder: Decoding, node: Node, depth: int) -> uuid.UUID:
    text, safe = node["v"], node["safe"]
    if not isinstance(text, str) or not _UUID.fullmatch(text) or type(safe) not in (int, type(None)):
        raise malformed(f"uuid {text!r:.60}")
    return uuid.UUID(hex=text, is_safe=uuid.SafeUUID(safe))


def _decode_path(decoder: Decoding, node: Node, depth: int) -> pathlib.PurePath:
    cls = _PATH_CLASSES.get(str(node["class"]))
    if cls is None:
        raise malformed(f"a path of class {node['class']!r:.60}")
    text = _text(decoder, node, "v", depth)
    try:
        return cls(text)
    except NotImplementedError as error:
        raise CheckpointError(f"a {cls.__name__} can't be read on this system: yield pure paths or texts") from error


def _ints(node: Node, count: int) -> list[int]:
    parts = node["v"]
    if not isinstance(parts, list) or len(parts) != count or not all(type(part) is int for part in parts):
        raise malformed(f"{node['$']} {parts!r:.100}")
    return parts  # type: ignore[return-value]


def _text(decoder: Decoding, node: Node, key: str, depth: int) -> str:
    text = decoder.decode(node[key], depth)
    if type(text) is not str:
        raise malformed(f"{node['$']} of class {qualified_name(type(text))}")
    return text


ENCODERS: dict[type, Callable[[Encoding, Any, str, int], JsonValue]] = {
    datetime.date: _encode_date,
    datetime.datetime: _encode_datetime,
    datetime.time: _encode_time,
    datetime.timedelta: _encode_timedelta,
    datetime.timezone: _encode_timezone,
    zoneinfo.ZoneInfo: _encode_zoneinfo,
    decimal.Decimal: _encode_decimal,
    Fraction: _encode_fraction,
    uuid.UUID: _encode_uuid,
    **dict.fromkeys(_PATHS, _encode_path),
}
"""How each of these types is encoded. Subclasses are other types."""

DECODERS: dict[str, tuple[Callable[[Decoding, Node, int], Any], set[str]]] = {
    "date": (_decode_date, {"v"}),
    "datetime": (_decode_datetime, {"v", "zone"}),
    "time": (_decode_time, {"v", "zone"}),
    "timedelta": (_decode_timedelta, {"v"}),
    "timezone": (_decode_timezone, {"v", "name"}),
    "zoneinfo": (_decode_zoneinfo, {"v"}),
    "decimal": (_decode_decimal, {"v"}),
    "fraction": (_decode_fraction, {"v"}),
    "uuid": (_decode_uuid, {"v", "safe"}),
    "path": (_decode_path, {"class", "v"}),
}

_CONVERSIONS: dict[type, str] = {
    datetime.datetime: "to_pydatetime() of a pandas.Timestamp makes one",
    datetime.timedelta: "to_pytimedelta() of a pandas.Timedelta makes one",
    datetime.date: "datetime.date(value.year, value.month, value.day) makes one",
    decimal.Decimal: "decimal.Decimal(value) makes one",
    Fraction: "Fraction(value) makes one",
    pathlib.PurePath: "pathlib.PurePosixPath(value) makes one",
}


def advice(value: Any) -> str | None:
    """Return what to do with a value of a subclass of these types. ``None``: the value is of no such subclass."""
    for cls, conversion in _CONVERSIONS.items():
        if isinstance(value, cls):
            return f"which is a subclass of {qualified_name(cls)}; yield a plain {cls.__name__}: {conversion}"
    return None
