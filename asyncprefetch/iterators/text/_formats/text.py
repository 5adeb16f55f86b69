"""Text files: one document each."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import (
    Place,
    SourceFile,
    hash_head,
    name_wide_mark,
    not_utf8,
    open_file,
    refuse,
)


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
            yield end._replace(head=hash_head(data)), _document(file, data, wanted.encoding_errors)
    yield end, None


def _document(file: SourceFile, data: bytes, errors: str) -> Document | DocumentError:
    wrong = name_wide_mark(data)
    if wrong is not None:
        return refuse(file, None, wrong)
    data = data.removeprefix(codecs.BOM_UTF8)
    if not data:
        return refuse(file, None, "the file is empty: exclude it with exclude=, or use on_error='skip'")
    try:
        return Document(file.name, data.decode("utf-8", errors), file=file.name)
    except UnicodeDecodeError as error:
        return not_utf8(file, None, error)
