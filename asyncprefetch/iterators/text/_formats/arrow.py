"""Arrow files, in the file format and the stream format: a row is a document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import Place, SourceFile, check_head, open_file, refuse
from asyncprefetch.iterators.text._formats.columnar import Columns

_MAGIC = b"ARROW1"
_PADDED_MAGIC = 8
"""How many bytes precede the schema in the file format."""

_Batches = Iterator[tuple[dict[str, Any], Callable[[], Any], dict[str, Any]]]
"""For each record batch: the fields of a place in it, a function that reads it, and the fields of the place after it."""


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. A local file is mapped, so that only the pages with our rows and columns are read."""
    columns = Columns(file, wanted)
    place = begin
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        if file.size == 0:
            yield Place(place.document, begin.file + 1), None
            return
        with columns.open(opened, mapped=True) as source:
            try:
                indexed, first, broken = _find_index(source, file, begin, columns)
                open_reader = columns.pyarrow.ipc.open_file if indexed else columns.pyarrow.ipc.open_stream
                source.seek(first)
                reader = open_reader(source)
                wrong = columns.missing(reader.schema.names)
                if wrong is not None:
                    yield place, wrong
                else:
                    schema = reader.schema
                    source.seek(first)
                    reader = open_reader(source, options=_only(columns, schema.names))
                    batches = (
                        _of_file(reader, file, begin, columns)
                        if indexed
                        else _of_stream(source, reader, schema, begin, columns, broken=broken)
                    )
                    for after, document in _rows(batches, begin, wanted.shard, columns, file):
                        place = after._replace(size=file.size, head=head)
                        if document is not None:
                            yield place, document
            except Exception as error:
                columns.raise_unless_damage(error, place.row)
                yield place, refuse(file, place.row, f"not an arrow file, or damaged from here on: {error}")
    yield Place(place.document, begin.file + 1), None


def _find_index(source: Any, file: SourceFile, begin: Place, columns: Columns) -> tuple[bool, int, str | None]:
    """Return whether a file is read by its index, at which byte its schema begins, and what is wrong with the index.

    A file in the file format holds a stream between its magic bytes and its index. If the index is missing, as in a file
    that was cut, or damaged, the batches of this stream are read until the damage.
    """
    if source.read(len(_MAGIC)) != _MAGIC:
        return False, 0, None
    source.seek(0)
    try:
        columns.pyarrow.ipc.open_file(source)
    except Exception as error:
        columns.raise_unless_damage(error, begin.row)
        if begin.batch:  # the number of a batch in the index; as a stream, the file would begin again
            reason = (
                "the index at its end is missing or damaged, and it was not at the checkpoint: the file has changed"
            )
            raise refuse(file, begin.row, reason) from error
        return False, _PADDED_MAGIC, f"the index at the end of the file is missing or damaged: {error}"
    return True, 0, None


def _only(columns: Columns, names: list[str]) -> Any:
    """Return the options for reading only the columns that are used."""
    used = columns.used(names)
    return columns.pyarrow.ipc.IpcReadOptions(included_fields=[names.index(name) for name in used])


def _rows(
    batches: _Batches, begin: Place, shard: tuple[int, int], columns: Columns, file: SourceFile
) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """Yield each document of our shard with the place after it, and ``None`` with the place after each batch."""
    index, count = shard
    skip = begin.skip
    before, first = (
        begin.document - skip,
        begin.row - skip,
    )  # the numbers of documents, and of rows of the file, before the batch
    for here, get, after in batches:
        number, wrong = 0, None
        try:
            batch = get()
            batch.validate()
            number = batch.num_rows
            columns.check(batch)  # in every shard, even without rows in this batch: all must agree on what is damaged
        except Exception as error:
            columns.raise_unless_damage(error, first)
            wrong = refuse(file, first, f"the record batch that begins here is damaged: {error}")
        else:
            rows = range(skip + (index - before - skip) % count, number, count)
            for row, document in zip(rows, columns.documents(batch, rows, first), strict=True):
                yield Place(before + row + 1, begin.file, skip=row + 1, row=first + row + 1, **here), document
        before, first, skip = before + number, first + number, 0
        yield Place(before, begin.file, row=first, **after), wrong


def _of_file(reader: Any, file: SourceFile, begin: Place, columns: Columns) -> _Batches:
    """Yield the batches of the file format. Only the index at the end of the file has their places: there may be gaps."""
    for number in range(_number(reader, file, begin), reader.num_record_batches):
        columns.check_size()
        yield {"batch": number}, partial(reader.get_batch, number), {"batch": number + 1}


def _number(reader: Any, file: SourceFile, begin: Place) -> int:
    """Return the number of the first batch."""
    if begin.offset == 0:
        return begin.batch
    # A place without a number has the batch's first byte, which is not in the index. Find the batch by the rows before it.
    number, rows = 0, begin.row - begin.skip
    while number < reader.num_record_batches and (size := reader.get_batch(number).num_rows) <= rows:
        number, rows = number + 1, rows - size
    if rows:
        raise refuse(file, begin.row, "no record batch begins at the place in the checkpoint: the file has changed")
    return number


def _of_stream(
    source: Any, reader: Any, schema: Any, begin: Place, columns: Columns, *, broken: str | None
) -> _Batches:
    """Yield the batches of the stream format, which are contiguous. A damaged one ends the stream.

    ``broken`` says what is wrong after the stream; ``None``: the stream ends the file.
    """
    size = source.size()
    if any(_has_dictionary(columns.pyarrow, field.type) for field in schema):
        # Dictionaries lie between the batches, so read these too. In a mapped file, skipping a batch reads almost nothing.
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
            if broken is not None:
                raise columns.pyarrow.ArrowInvalid(broken) from None
            # pyarrow accepts the end of the file, and a zero, as the end of the stream: a file that was cut looks whole.
            if source.tell() == offset:
                raise columns.pyarrow.ArrowInvalid("the mark of the end of the stream is missing") from None
            if source.tell() < size:
                raise columns.pyarrow.ArrowInvalid(
                    f"{size - source.tell()} bytes follow the end of the stream"
                ) from None
            return
        yield {"offset": offset}, lambda batch=batch: batch, {"offset": source.tell()}  # type: ignore[misc]


def _has_dictionary(pyarrow: Any, type_: Any) -> bool:
    if isinstance(type_, pyarrow.BaseExtensionType):
        return _has_dictionary(pyarrow, type_.storage_type)
    return bool(pyarrow.types.is_dictionary(type_)) or any(
        _has_dictionary(pyarrow, type_.field(i).type) for i in range(type_.num_fields)
    )
