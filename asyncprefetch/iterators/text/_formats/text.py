"""Text files: one document each."""

from __future__ import annotations

from collections.abc import Iterator

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import (
    Place,
    SourceFile,
    hash_head,
    name_wide_mark,
    open_file,
    refuse,
    undecoded,
)
from asyncprefetch.iterators.text._formats.encodings import UTF8, no_mark, ordered


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. A file of another shard is not opened. The place after our file has the hash of its head."""
    index, count = wanted.shard
    end = Place(begin.document + 1, begin.file + 1)
    if begin.document % count == index:
        if wanted.columns:
            fields = ", ".join(map(repr, wanted.columns))
            yield end, refuse(file, None, f"a text file has no columns, so it has no {fields}")
        else:
            with open_file(file) as opened:
                data = opened.read()
            yield end._replace(head=hash_head(data)), _document(file, data, wanted)
    yield end, None


def _document(file: SourceFile, data: bytes, wanted: Wanted) -> Document | DocumentError:
    encoding = ordered(wanted.encoding, data)
    if encoding is None:
        return refuse(file, None, no_mark(wanted.encoding))
    wrong = name_wide_mark(data) if encoding == UTF8 else None
    if wrong is not None:
        return refuse(file, None, wrong)
    try:
        text = data.decode(encoding, wanted.encoding_errors).removeprefix("\ufeff")  # the byte order mark
    except UnicodeDecodeError as error:
        return undecoded(file, None, error)
    if not text:
        return refuse(file, None, "the file is empty: exclude it with exclude=, or use on_error='skip'")
    return Document(file.name, text, file=file.name)
