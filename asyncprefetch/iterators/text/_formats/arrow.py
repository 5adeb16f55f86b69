"""Arrow files, of the file and of the stream kind: a row is a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import DocumentError, Place, SourceFile, check_head, open_file, refuse
from asyncprefetch.iterators.text._formats.columnar import Columns

_MAGIC = b"ARROW1"

_Batches = Iterator[tuple[dict[str, Any], Callable[[], Any], dict[str, Any]]]
"""Of each record batch the fields of the place in it, what gets it, and the fields of the place behind it."""


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. A local file is mapped, so that only the pages with our rows and columns are read."""
    columns = Columns(file, wanted)
    place = begin
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        with columns.open(opened, mapped=True) as source:
            try:
                indexed = source.read(len(_MAGIC)) == _MAGIC
                open_reader = columns.pyarrow.ipc.open_file if indexed else columns.pyarrow.ipc.open_stream
                source.seek(0)
                reader = open_reader(source)
                wrong = columns.missing(reader.schema.names)
                if wrong is not None:
                    yield place, wrong
                else:
                    schema = reader.schema
                    source.seek(0)
                    reader = open_reader(source, options=_only(columns, schema.names))
                    batches = (
                        _of_file(reader, file, begin, columns)
                        if indexed
                        else _of_stream(source, reader, schema, begin, columns)
                    )
                    for behind, document in _rows(batches, begin, wanted.shard, columns, file):
                        place = behind._replace(size=file.size, head=head)
                        if document is not None:
                            yield place, document
            except Exception as error:
                columns.raise_unless_damage(error, place.row)
                yield place, refuse(file, place.row, f"no arrow file, or damaged from here on: {error}")
    yield Place(place.document, begin.file + 1), None


def _only(columns: Columns, names: list[str]) -> Any:
    """The options for reading nothing but the columns that are used."""
    used = columns.used(names)
    return columns.pyarrow.ipc.IpcReadOptions(included_fields=[names.index(name) for name in used])


def _rows(
    batches: _Batches, begin: Place, shard: tuple[int, int], columns: Columns, file: SourceFile
) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """Each document of ours and the place behind it; ``None`` at the end of each batch, which is a place, too."""
    index, count = shard
    skip = begin.skip
    before, first = begin.document - skip, begin.row - skip  # of all documents, and of the file's rows
    for here, get, behind in batches:
        number, wrong = 0, None
        try:
            batch = get()
            batch.validate()
            number = batch.num_rows
            columns.check(batch)  # by every shard, whether or not it has rows of it: all must agree on what is damaged
        except Exception as error:
            columns.raise_unless_damage(error, first)
            wrong = refuse(file, first, f"the record batch that begins here is damaged: {error}")
        else:
            rows = range(skip + (index - before - skip) % count, number, count)
            for row, document in zip(rows, columns.documents(batch, rows, first), strict=True):
                yield Place(before + row + 1, begin.file, skip=row + 1, row=first + row + 1, **here), document
        before, first, skip = before + number, first + number, 0
        yield Place(before, begin.file, row=first, **behind), wrong


def _of_file(reader: Any, file: SourceFile, begin: Place, columns: Columns) -> _Batches:
    """The batches of a file of the file kind. Only its index at the end says where they are: there may be gaps."""
    for number in range(_number(reader, file, begin), reader.num_record_batches):
        columns.check_size()
        yield {"batch": number}, partial(reader.get_batch, number), {"batch": number + 1}


def _number(reader: Any, file: SourceFile, begin: Place) -> int:
    """The number of the batch in which we begin."""
    if begin.offset == 0:
        return begin.batch
    # A place without a number has the batch's first byte, which the index doesn't show. The rows before it tell, too.
    number, rows = 0, begin.row - begin.skip
    while number < reader.num_record_batches and (size := reader.get_batch(number).num_rows) <= rows:
        number, rows = number + 1, rows - size
    if rows:
        raise refuse(file, begin.row, "no record batch begins where the checkpoint says: the file changed")
    return number


def _of_stream(source: Any, reader: Any, schema: Any, begin: Place, columns: Columns) -> _Batches:
    """The batches of a file of the stream kind, which lie one behind the other. The first damaged one ends it."""
    size = source.size()
    if any(_has_dictionary(columns.pyarrow, field.type) for field in schema):
        # What the batches refer to lies between them. To pass over those of a file that is mapped reads next to nothing.
        while source.tell() < begin.offset:
            reader.read_next_batch()
    elif begin.offset:
        source.seek(begin.offset)
    while True:
        columns.check_size()
        offset = source.tell()
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            # For pyarrow the end of the file is an end like any other, but a file that was cut has it; and so is a zero.
            if source.tell() == offset:
                raise columns.pyarrow.ArrowInvalid("the mark of its end is missing") from None
            if source.tell() < size:
                raise columns.pyarrow.ArrowInvalid(f"{size - source.tell()} bytes lie behind its end") from None
            return
        yield {"offset": offset}, lambda batch=batch: batch, {"offset": source.tell()}  # type: ignore[misc]


def _has_dictionary(pyarrow: Any, type_: Any) -> bool:
    if isinstance(type_, pyarrow.BaseExtensionType):
        return _has_dictionary(pyarrow, type_.storage_type)
    return bool(pyarrow.types.is_dictionary(type_)) or any(
        _has_dictionary(pyarrow, type_.field(i).type) for i in range(type_.num_fields)
    )
