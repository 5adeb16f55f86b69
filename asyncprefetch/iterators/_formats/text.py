"""Text files: one document each."""

from __future__ import annotations

from collections.abc import Iterator

from asyncprefetch.iterators._document import Document, Wanted
from asyncprefetch.iterators._files import DocumentError, Place, SourceFile, not_utf8, open_file, refuse


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. The file of another shard is not opened."""
    index, count = wanted.shard
    end = Place(begin.document + 1, begin.file + 1)
    if begin.document % count == index:
        if wanted.columns:
            fields = ", ".join(map(repr, wanted.columns))
            yield end, refuse(file, None, f"a text file has no columns, hence no {fields}")
        else:
            yield end, _document(file, wanted.encoding_errors)
    yield end, None


def _document(file: SourceFile, errors: str) -> Document | DocumentError:
    with open_file(file) as opened:
        data = opened.read()
    if not data:
        return refuse(file, None, "the file is empty: leave it out by exclude=, or use on_error='skip'")
    try:
        return Document(file.name, data.decode("utf-8", errors), file=file.name)
    except UnicodeDecodeError as error:
        return not_utf8(file, None, error)
