"""Arrow files, of the file and of the stream kind: a row is a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncprefetch.iterators._document import Document, Wanted
from asyncprefetch.iterators._files import DocumentError, Place, SourceFile, check_head, open_file, refuse
from asyncprefetch.iterators._formats.columnar import Columns

_MAGIC = b"ARROW1"
_PREFIX = 8  # bytes before the stream that a file of the file kind is, before its footer


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. A local file is mapped, so that only the pages with our rows and columns are read."""
    columns = Columns(file, wanted)
    place = begin
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        with columns.open(opened, mapped=True) as source:
            try:
                reader = _open(columns.pyarrow, source)
                wrong = columns.missing(reader.schema.names)
                if wrong is not None:
                    yield place, wrong
                else:
                    for behind, document in _rows(source, reader, begin, wanted.shard, columns):
                        place = behind._replace(size=file.size, head=head)
                        if document is not None:
                            yield place, document
            except Exception as error:
                if not columns.is_damage(error):
                    raise
                yield place, refuse(file, place.row, f"no arrow file, or damaged from here on: {error}")
    yield Place(place.document, begin.file + 1), None


def _open(pyarrow: Any, source: Any) -> Any:
    """What reads the record batches of either kind one after the other: the file kind is a stream, and an index to it."""
    source.seek(_PREFIX if source.read(len(_MAGIC)) == _MAGIC else 0)
    return pyarrow.ipc.open_stream(source)


def _rows(
    source: Any, reader: Any, begin: Place, shard: tuple[int, int], columns: Columns
) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """Each document of ours and the place behind it; ``None`` at the end of each batch, which is a place, too."""
    index, count = shard
    skip = begin.skip
    before, first = begin.document - skip, begin.row - skip  # of all documents, and of the file's rows
    _seek(source, reader, begin.offset)
    while True:
        offset = source.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            if source.tell() == offset:  # for pyarrow that is an end like any other, but a file that was cut has it
                raise columns.pyarrow.ArrowInvalid("the mark of its end is missing") from None
            return
        rows = range(skip + (index - before - skip) % count, batch.num_rows, count)
        for row, document in zip(rows, columns.documents(batch, rows, first), strict=True):
            yield Place(before + row + 1, begin.file, offset, row + 1, first + row + 1), document
        before, first, skip = before + batch.num_rows, first + batch.num_rows, 0
        yield Place(before, begin.file, source.tell(), 0, first), None


def _seek(source: Any, reader: Any, offset: int) -> None:
    if offset == 0:
        return
    if "dictionary" in str(reader.schema):
        # What the batches refer to lies between them. To pass over those of a file that is mapped reads next to nothing.
        while source.tell() < offset:
            reader.read_next_batch()
    else:
        source.seek(offset)
