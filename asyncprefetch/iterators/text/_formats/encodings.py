"""Encodings other than UTF-8: their check, their byte order, and their lines. Places count the bytes of the file itself."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator

UTF8 = "utf-8"

_ORDERS = {
    "utf-16": ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")),
    "utf-32": ((codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")),
}


def check_encoding(encoding: str) -> str:
    """Return the usual name of an encoding.

    Raises:
        ValueError: Python does not know the encoding, or its line feed is not that of ASCII, UTF-16 or UTF-32.
    """
    try:
        name = codecs.lookup(encoding).name
        line_feed = "\n".encode(name)
    except LookupError as error:
        raise ValueError(f"encoding must be the name of a text encoding of Python, not {encoding!r}") from error
    if name == "utf-8-sig":
        return UTF8
    if line_feed.strip(b"\0\xff\xfe") != b"\n":
        raise ValueError(f"encoding {encoding!r} has another line feed than ASCII: convert the files to UTF-8")
    return name


def needs_mark(encoding: str) -> bool:
    """Return whether the byte order mark of a file says in which order its bytes are."""
    return encoding in _ORDERS


def ordered(encoding: str, first: bytes) -> str | None:
    """Return the encoding with the byte order of a file that begins with ``first``; ``None``: its mark is missing."""
    if not needs_mark(encoding):
        return encoding
    if not first:  # an empty file
        return f"{encoding}-le"
    return next((name for mark, name in _ORDERS[encoding] if first.startswith(mark)), None)


def no_mark(encoding: str) -> str:
    """Return the reason for refusing a file without its byte order mark."""
    return f"it has no byte order mark of {encoding}: use encoding='{encoding}-le' or encoding='{encoding}-be'"


def split_lines(lines: io.BufferedReader, line_feed: bytes) -> Iterator[bytes]:
    """Yield the lines of text in which each unit has as many bytes as ``line_feed``. The text begins with a whole unit."""
    width, line = len(line_feed), b""
    for part in lines:
        line += part
        line += lines.read(-len(line) % width)  # the part may end within a unit
        if line.endswith(line_feed):
            yield line
            line = b""
    if line:
        yield line
