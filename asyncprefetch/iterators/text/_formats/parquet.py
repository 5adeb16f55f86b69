"""Parquet files: a row is a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncprefetch.iterators._document_error import DocumentError
from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import Place, SourceFile, check_head, open_file, refuse
from asyncprefetch.iterators.text._formats.columnar import Columns

_ROWS = 256  # rows decoded at a time: texts may be long


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. The rows of a shard are contiguous, and only the row groups with some of them are read."""
    columns = Columns(file, wanted)
    before = begin.document - begin.row  # the number of documents in the files before this one
    end = Place(before, begin.file + 1)
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        if file.size == 0:
            yield end, None
            return
        with columns.open(opened) as source:
            try:
                table = load("pyarrow.parquet", "files", f"reading {file.shown}").ParquetFile(source)
                rows, groups = table.metadata.num_rows, _groups(table)
                if sum(groups) != rows or min(groups, default=0) < 0:
                    raise columns.pyarrow.ArrowInvalid(f"it has {rows} rows, but its row groups have {sum(groups)}")
                names = table.schema_arrow.names
            except Exception as error:
                columns.raise_unless_damage(error, begin.row)
                yield end, refuse(file, None, f"not a valid parquet file: {error}")
                yield end, None
                return
            end = end._replace(document=before + rows)
            wrong = columns.missing(names)
            if wrong is not None:
                yield end, wrong
            else:
                first, stop = shard_of(before, rows, wanted.shard)
                for row, document in _rows(table, range(max(first, begin.row), stop), columns, file):
                    yield Place(before + row, begin.file, 0, 0, row, file.size, head), document
    yield end, None


def shard_of(before: int, rows: int, shard: tuple[int, int]) -> tuple[int, int]:
    """Return the first row of a shard, and the one after its last, in a file with ``rows`` rows after ``before`` documents.

    The shard has as many rows as there are documents whose number is ``index`` modulo ``count``. So the shards are of equal
    size over many files, even if the files are small.
    """
    index, count = shard
    sizes = [(before + rows - 1 - i) // count - (before - 1 - i) // count for i in range(index + 1)]
    return sum(sizes[:-1]), sum(sizes)


def _groups(table: Any) -> list[int]:
    """Return the number of rows of each row group."""
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _rows(
    table: Any, ours: range, columns: Columns, file: SourceFile
) -> Iterator[tuple[int, Document | DocumentError]]:
    """Yield each document of the rows ``ours``, with the number of the row after it."""
    names = columns.used(table.schema_arrow.names)
    begin = 0  # the first row of the row group
    for group, rows in enumerate(_groups(table)):
        first, begin = begin, begin + rows
        row, stop = max(first, ours.start), min(begin, ours.stop)
        if row >= stop:
            continue
        # Damage fails a whole batch. Then the group is read again row by row, for the rows of that batch before the damage.
        for size in (_ROWS, 1):
            at = first
            try:
                for batch in table.iter_batches(size, row_groups=[group], columns=names, use_threads=False):
                    if row < at + batch.num_rows:
                        columns.check(batch)
                        local = range(row - at, min(batch.num_rows, stop - at))
                        for document in columns.documents(batch, local, at):
                            row += 1
                            yield row, document
                    at += batch.num_rows
                    if row == stop < begin:
                        break
                if row < stop or at > begin:
                    raise columns.pyarrow.ArrowInvalid(f"it does not have the {rows} rows that the file declares")
                break
            except Exception as error:
                columns.raise_unless_damage(error, row)
                if size == 1:
                    yield stop, refuse(file, row, f"the rest of row group {group} is damaged: {error}")
