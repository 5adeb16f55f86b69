"""Files of lines, plain or compressed. Each line is a JSON object."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import zlib
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._document import Document, Wanted, make_document
from asyncprefetch.iterators.text._files import (
    Place,
    SourceFile,
    check_head,
    check_size,
    failure_of,
    not_utf8,
    open_file,
    refuse,
)

_CHUNK = 1 << 18
_PIECE = 1 << 10  # bytes of zstd decompressed at a time: four may expand to 131,072, so these to 32 MiB
_WINDOW = 1 << 31  # the largest window of zstd --long
_DEPTH = 201
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)

_TOKENS = re.compile(rb'[][{}]|"(?:[^"\\]|\\.)*+"?')  # brackets, and strings, whose brackets do not count

_log = logging.getLogger("asyncprefetch.iterators")


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. Lines of other shards are read but not parsed. Blank lines count as rows, not as documents."""
    index, count = wanted.shard
    number, offset, row = begin.document, begin.offset, begin.row
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        try:
            lines = _decompressed(opened, file)
            _seek(lines, file, begin)
            for line in lines:
                offset += len(line)
                row += 1
                if line.isspace():
                    continue
                number += 1
                if (number - 1) % count == index:
                    place = Place(number, begin.file, offset, 0, row, file.size, head)
                    yield place, _parse(line, wanted, file, row - 1)
            check_size(opened, file)
        except _DAMAGED as error:
            failure = failure_of(opened)
            if failure is not None:
                raise failure from None
            check_size(opened, file)
            place = Place(number, begin.file, offset, 0, row, file.size, head)
            yield place, refuse(file, row, f"the compressed file is damaged from here on: {error}")
    yield Place(number, begin.file + 1), None


def _decompressed(opened: io.BufferedReader, file: SourceFile) -> io.BufferedReader:
    # A GzipFile reads lines in small pieces, so put a buffer around it.
    name = file.name.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=opened), _CHUNK)
    if name.endswith(".zst"):
        return io.BufferedReader(_Zstandard(opened), _CHUNK)
    return opened


def _seek(lines: io.BufferedReader, file: SourceFile, begin: Place) -> None:
    if begin.offset == 0:
        return
    before = begin.offset - 1
    if file.name.lower().endswith(".jsonl"):
        before -= lines.seek(before)
    else:
        _log.info(
            "%s is compressed: reading %d bytes of it again to get to row %d", file.shown, begin.offset, begin.row
        )
        # Buffer by buffer, as lines are read: so a damaged file fails at the same byte as without a resume.
        while before and (buffered := len(lines.peek())):
            before -= len(lines.read(min(before, buffered)))
    last = lines.read(1)
    if before or not last or (last != b"\n" and lines.peek(1)):
        reason = f"no row begins at byte {begin.offset}: the file has changed since the checkpoint"
        raise refuse(file, begin.row, reason)


def _parse(line: bytes, wanted: Wanted, file: SourceFile, row: int) -> Document | DocumentError:
    try:
        try:
            # Faster than the standard library's decoder, and at least as strict. That one checks what this one refuses.
            fields = from_json(line)
        except ValueError:
            fields = _parse_with_care(line, wanted, file, row)
        if not isinstance(fields, dict):
            raise refuse(
                file, row, f"a row must be a JSON object with the field {wanted.text_field!r}, not {line[:40]!r}"
            )
        return make_document(fields, wanted, file, row)
    except DocumentError as error:
        return error


def _parse_with_care(line: bytes, wanted: Wanted, file: SourceFile, row: int) -> Any:
    """Parse what the fast parser refuses: broken JSON, deep nesting, invalid UTF-8, and escapes of half characters."""
    if _nests_deeper(line, _DEPTH):
        raise refuse(file, row, f"broken JSON: it is nested deeper than {_DEPTH} levels")
    try:
        fields = json.loads(line.decode("utf-8", wanted.encoding_errors))
        if b"\\u" in line and isinstance(fields, dict):
            # An escape can name half of a surrogate pair. It is not a character, and has no UTF-8.
            used = {name: fields[name] for name in (*wanted.required, *wanted.optional) if name in fields}
            data = json.dumps(used, ensure_ascii=False).encode("utf-8", "surrogatepass")
            fields |= json.loads(data.decode("utf-8", wanted.encoding_errors))
    except UnicodeDecodeError as error:
        raise not_utf8(file, row, error) from error
    except ValueError as error:
        raise refuse(file, row, f"broken JSON: {error}") from error
    return fields


def _nests_deeper(line: bytes, limit: int) -> bool:
    """Return whether JSON has more levels than the fast parser takes. The other one's limit depends on the call stack."""
    depth = 0
    for token in _TOKENS.finditer(line):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > limit:
            return True
    return False


class _Zstandard(io.RawIOBase):
    """The content of a file of zstd frames. An end within a frame is an error; the package's own reader accepts it."""

    def __init__(self, opened: io.BufferedReader) -> None:
        self._opened = opened
        self._zstandard = load("zstandard", "files", "reading .zst files")
        self._frame: Any = None
        self._input = memoryview(b"")
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or memoryview(self._opened.read(_CHUNK // 4))
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends within a frame of zstd")
                return 0
            if self._frame is None:
                self._frame = self._zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
            piece = self._input[:_PIECE]
            try:
                self._output = memoryview(self._frame.decompress(piece))
            except self._zstandard.ZstdError as error:
                if "not enough memory" in str(error):
                    raise MemoryError(str(error)) from error
                raise EOFError(str(error)) from error
            rest = len(self._frame.unused_data) if self._frame.eof else 0
            self._input = self._input[len(piece) - rest :]
            if self._frame.eof:
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size
