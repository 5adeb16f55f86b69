"""A state as bytes: a container with a checksum. What the state means is not known here.

The container is a safetensors file: its tensors, uint8 of one dimension, are the leaves (``leaf.000000`` and on), its
metadata the name of the format, the version, the JSON document, and a checksum over the whole file::

    {"__metadata__": {"format": "asyncprefetch", "version": "1", "document": "{...}", "sha256": "<64 hex digits>"}, ...}

The checksum is that of the file with zeros in place of those 64 digits. Reading runs no code and makes nothing but
built-in objects.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any, BinaryIO

from pydantic import JsonValue

from asyncprefetch.errors import CheckpointError

_FORMAT = "asyncprefetch"
_MAX_HEADER = 100_000_000  # bytes; the cap that safetensors sets to its readers and writers
_BLANK = b"0" * 64
# The document can't contain it: within a JSON string each quote has a backslash before it.
_CHECKSUM = re.compile(rb'"sha256":"([0-9a-f]{64})"')
# Matches half of a surrogate pair, escaped or not, and also the halves of a whole pair.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


# ---------------------------------------------------------------------------------------------------- state <-> bytes


def pack_parts(document: dict[str, JsonValue], leaves: Sequence[bytes], *, version: int) -> list[bytes]:
    """A safetensors container that holds the document, the leaves, and a checksum over both: header first, then leaves.

    Raises:
        CheckpointError: the document is no JSON (NaN is none), or too large for the container's header.
    """
    try:
        text = json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the state is no JSON: {error}") from error
    _check_header_size(len(text))
    metadata = {"format": _FORMAT, "version": str(version), "document": text, "sha256": _BLANK.decode()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for index, leaf in enumerate(leaves):
        begin, end = end, end + len(leaf)
        header[_leaf_name(index)] = {"dtype": "U8", "shape": [len(leaf)], "data_offsets": [begin, end]}
    blank = json.dumps(header, separators=(",", ":")).encode()
    blank += b" " * (-len(blank) % 8)  # the data begins at a multiple of eight
    _check_header_size(len(blank))  # once more: quoted a second time, the document has grown
    blank = len(blank).to_bytes(8, "little") + blank
    start = _find_checksum(blank)
    summed = hashlib.sha256(blank)
    for leaf in leaves:
        summed.update(leaf)
    return [blank[:start] + summed.hexdigest().encode() + blank[start + 64 :], *leaves]


def pack(document: dict[str, JsonValue], leaves: Sequence[bytes], *, version: int) -> bytes:
    """The parts that :func:`pack_parts` gives, as one.

    Raises:
        CheckpointError: as :func:`pack_parts`.
    """
    return b"".join(pack_parts(document, leaves, version=version))


def unpack(data: bytes | bytearray, *, version: int) -> tuple[dict[str, JsonValue], list[bytes]]:
    """The document and the leaves that :func:`pack` put together. It runs no code that the data names.

    Time and memory are bounded by the size of the data.

    Args:
        data: the whole container.
        version: the newest format that the caller reads.

    Raises:
        CheckpointError: the data is empty, truncated, damaged, no safetensors file, one of another program, of a newer
            version than ``version``, or not what :func:`pack` writes; the message says which.
    """
    try:
        return unpack_from(io.BytesIO(data), len(data), version)
    except MemoryError as error:
        raise CheckpointError("there is not enough memory to read the checkpoint") from error


def unpack_from(file: BinaryIO, size: int, version: int) -> tuple[dict[str, JsonValue], list[bytes]]:
    prefix = file.read(9)
    if len(prefix) < 8:
        raise CheckpointError("the checkpoint is empty" if not prefix else f"truncated: only {len(prefix)} bytes")
    header_size = int.from_bytes(prefix[:8], "little")
    if not 2 <= header_size <= _MAX_HEADER or prefix[8:9] not in (b"{", b""):
        raise CheckpointError("not a safetensors file: it does not begin with a header")
    if size < 8 + header_size:
        raise CheckpointError(f"truncated: {size} bytes, and the header alone takes {8 + header_size}")
    whole_header = prefix + file.read(header_size - 1)
    try:
        header = parse_json(whole_header[8:])
    except CheckpointError as error:
        raise CheckpointError(f"damaged, or not a safetensors file: the header is unreadable: {error}") from error
    metadata = header.pop("__metadata__", None) if isinstance(header, dict) else None
    if not isinstance(header, dict) or not isinstance(metadata, dict) or metadata.get("format") != _FORMAT:
        raise CheckpointError("a safetensors file, but not a checkpoint of asyncprefetch")
    start = _find_checksum(whole_header)
    content = size - 8 - header_size
    # Until the checksum is known to be right, errors of the header say nothing. They are raised after that.
    try:
        spans, malformed = _spans(header, content), None
    except CheckpointError as error:
        spans, malformed = [(0, content)], error
    summed = hashlib.sha256(whole_header[:start] + _BLANK + whole_header[start + 64 :])
    leaves = [b""] * len(spans)
    for index in sorted(range(len(spans)), key=spans.__getitem__):
        begin, end = spans[index]
        leaves[index] = file.read(end - begin)
        summed.update(leaves[index])
    if whole_header[start : start + 64] != summed.hexdigest().encode():
        missing = _announced_size(header) - content
        raise CheckpointError(
            f"truncated: {missing} bytes are missing" if missing > 0 else "damaged: the checksum differs"
        )
    _check_version(metadata.get("version"), version)
    text = metadata.get("document")
    document = parse_json(text) if isinstance(text, str) else None
    if not isinstance(document, dict):
        raise CheckpointError("malformed: the document is not a JSON object")
    if malformed is not None:
        raise malformed
    return document, leaves


def parse_json(text: str | bytes | bytearray) -> JsonValue:
    """The value of strict JSON: no NaN or infinity, no key twice in an object, text and bytes only in UTF-8.

    Raises:
        CheckpointError: the text is not such JSON, nests too deeply, or has a number too long to read.
    """
    try:
        if not isinstance(text, str):
            text = text.decode()
        value: JsonValue = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise CheckpointError("malformed JSON: nested too deeply") from None
    except MemoryError:
        raise CheckpointError("there is not enough memory to read the JSON") from None
    except ValueError as error:
        raise CheckpointError(f"malformed JSON: {error}") from error
    return value


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("an object has a key twice")
    return read


def _refuse_constant(name: str) -> JsonValue:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is too large for a float")
    return value


def _check_header_size(size: int) -> None:
    if size > _MAX_HEADER:
        raise CheckpointError(
            f"what is not an array takes {size:,} bytes of JSON, and a safetensors file has room for {_MAX_HEADER:,}: "
            "hold it in arrays"
        )


def _leaf_name(index: int) -> str:
    return f"leaf.{index:06}"


def _find_checksum(header: bytes) -> int:
    found = _CHECKSUM.finditer(header)
    first, second = next(found, None), next(found, None)
    if first is None or second is not None:
        raise CheckpointError("damaged: there is no checksum where one should be")
    return first.start(1)


def _announced_size(tensors: dict[str, Any]) -> int:
    """The number of bytes of data that the header announces, as far as it can be read."""
    reached = 0
    for tensor in tensors.values():
        match tensor:
            case {"data_offsets": [int(), int(end)]}:
                reached = max(reached, end)
    return reached


def _check_version(written: Any, known: int) -> None:
    if not isinstance(written, str) or not _VERSION.fullmatch(written):
        raise CheckpointError("malformed: no version")
    if int(written) > known:
        raise CheckpointError(
            f"the checkpoint has version {written} of the format, and this asyncprefetch reads up to {known}: "
            "use a newer one"
        )


def _spans(tensors: dict[str, Any], size: int) -> list[tuple[int, int]]:
    """Begin and end of each leaf. Together they must cover the whole data: no hole, no overlap, nothing after them."""
    spans: list[tuple[int, int]] = []
    for index in range(len(tensors)):
        name = _leaf_name(index)
        match tensors.get(name):
            case {"dtype": "U8", "shape": [int(length)], "data_offsets": [int(begin), int(end)], **rest} if not rest:
                if begin + length != end:
                    raise CheckpointError(f"malformed: tensor {name!r} of {length} bytes from {begin} to {end}")
                spans.append((begin, end))
            case None:
                raise CheckpointError(f"malformed: {len(tensors)} tensors, but no {name!r}")
            case _:
                raise CheckpointError(f"malformed: tensor {name!r} is not a row of bytes")
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached or end < begin:
            raise CheckpointError(f"malformed: the tensors do not fill the data at byte {reached}")
        reached = end
    if reached != size:
        raise CheckpointError(f"malformed: {size} bytes of data, and tensors of {reached}")
    return spans
