"""Files of lines, plain or compressed. Each line is a JSON object."""

from __future__ import annotations

import codecs
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.text._document import Document, Wanted, make_document
from asyncprefetch.iterators.text._files import (
    Place,
    SourceFile,
    check_head,
    check_size,
    name_wide_mark,
    open_file,
    refuse,
    undecoded,
)
from asyncprefetch.iterators.text._formats.compressed import damage_of, decompress
from asyncprefetch.iterators.text._formats.encodings import UTF8, needs_mark, no_mark, ordered, split_lines

_BUFFER = 1 << 18
_DEPTH = 201

_TOKENS = re.compile(rb'[][{}]|"(?:[^"\\]|\\.)*+"?')  # brackets, and strings, whose brackets do not count

_log = logging.getLogger("asyncprefetch.iterators")


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. Lines of other shards are read but not parsed. Blank lines count as rows, not as documents."""
    index, count = wanted.shard
    number, offset, row = begin.document, begin.offset, begin.row
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        encoding = wanted.encoding
        if needs_mark(encoding):
            encoding = ordered(encoding, decompress(opened, file).read(4)) or ""
            opened.seek(0)
            if not encoding:
                yield begin, refuse(file, None, no_mark(wanted.encoding))
                yield Place(number, begin.file + 1), None
                return
        line_feed = "\n".encode(encoding)
        lines = decompress(opened, file)
        _seek(lines, file, begin, line_feed)
        wrong: str | None = None
        for content in lines if len(line_feed) == 1 else split_lines(lines, line_feed):
            line, error = content, None
            if encoding != UTF8:
                try:
                    line = content.decode(encoding, wanted.encoding_errors).encode()
                except UnicodeDecodeError as undecodable:
                    error = undecodable
            elif row == 0:
                wrong = name_wide_mark(content)
                if wrong is not None:
                    break
            if row == 0:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not content.endswith(line_feed) and damage_of(lines) is not None and (error or not _is_object(line)):
                break  # a part of a row
            offset += len(content)
            row += 1
            if not line or line.isspace():
                continue
            number += 1
            if (number - 1) % count == index:
                place = Place(number, begin.file, offset, 0, row, file.size, head)
                yield place, undecoded(file, row - 1, error) if error else _parse(line, wanted, file, row - 1)
        check_size(opened, file)
        place = Place(number, begin.file, offset, 0, row, file.size, head)
        damage = damage_of(lines)
        if wrong is not None:
            yield place, refuse(file, None, wrong)
        elif damage is not None:
            yield place, refuse(file, row, f"the compressed file is damaged from here on: {damage}")
    yield Place(number, begin.file + 1), None


def _seek(lines: io.BufferedReader, file: SourceFile, begin: Place, line_feed: bytes) -> None:
    if begin.offset == 0:
        return
    before = begin.offset - len(line_feed)
    if file.name.lower().endswith(".jsonl"):
        before -= lines.seek(before)
    else:
        _log.info(
            "%s is compressed: reading %d bytes of it again to get to row %d", file.shown, begin.offset, begin.row
        )
        while before and (data := lines.read(min(before, _BUFFER))):
            before -= len(data)
    last = lines.read(len(line_feed))
    if before or not last or (last != line_feed and lines.peek(1)):
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
        raise undecoded(file, row, error) from error
    except ValueError as error:
        raise refuse(file, row, f"broken JSON: {error}") from error
    return fields


def _is_object(line: bytes) -> bool:
    """Return whether a line is a whole JSON object: the object's last bracket shows that nothing of it is missing."""
    try:
        return isinstance(from_json(line), dict)
    except ValueError:
        return False


def _nests_deeper(line: bytes, limit: int) -> bool:
    """Return whether JSON has more levels than the fast parser takes. The other one's limit depends on the call stack."""
    depth = 0
    for token in _TOKENS.finditer(line):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > limit:
            return True
    return False
