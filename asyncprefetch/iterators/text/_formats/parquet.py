"""Parquet files: a row is a document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncprefetch.iterators._extras import load
from asyncprefetch.iterators.text._document import Document, Wanted
from asyncprefetch.iterators.text._files import DocumentError, Place, SourceFile, check_head, open_file, refuse
from asyncprefetch.iterators.text._formats.columnar import Columns

_ROWS = 256  # decoded at a time: texts may be long


def read(file: SourceFile, begin: Place, wanted: Wanted) -> Iterator[tuple[Place, Document | DocumentError | None]]:
    """See :class:`Read`. A shard has rows that lie together, and only the row groups that hold some of them are read."""
    columns = Columns(file, wanted)
    before = begin.document - begin.row  # documents in the files before this one
    end = Place(before, begin.file + 1)
    with open_file(file) as opened:
        head = check_head(opened, file, begin)
        with columns.open(opened) as source:
            try:
                table = load("pyarrow.parquet", "files", f"reading {file.shown}").ParquetFile(source)
                rows, groups = table.metadata.num_rows, _groups(table)
                if sum(groups) != rows or min(groups, default=0) < 0:
                    raise columns.pyarrow.ArrowInvalid(f"it has {rows} rows, and its row groups {sum(groups)}")
                names = table.schema_arrow.names
            except Exception as error:
                columns.raise_unless_damage(error, begin.row)
                yield end, refuse(file, None, f"no parquet file: {error}")
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
    """First and last (exclusive) of the rows of a shard, in a file of ``rows`` rows after ``before`` documents.

    As many as there are documents whose number is ``index`` modulo ``count``, so that over many files, however small,
    the shards are even.
    """
    index, count = shard
    sizes = [(before + rows - 1 - i) // count - (before - 1 - i) // count for i in range(index + 1)]
    return sum(sizes[:-1]), sum(sizes)


def _groups(table: Any) -> list[int]:
    """How many rows each row group has."""
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def _rows(
    table: Any, ours: range, columns: Columns, file: SourceFile
) -> Iterator[tuple[int, Document | DocumentError]]:
    """Each document of the rows ``ours``, with the number of the row after it."""
    names = columns.used(table.schema_arrow.names)
    begin = 0  # of the row group
    for group, rows in enumerate(_groups(table)):
        first, begin = begin, begin + rows
        row, stop = max(first, ours.start), min(begin, ours.stop)
        if row >= stop:
            continue
        try:
            for batch in table.iter_batches(_ROWS, row_groups=[group], columns=names, use_threads=False):
                columns.check(batch)
                local = range(max(row - first, 0), min(batch.num_rows, stop - first))
                for document in columns.documents(batch, local, first):
                    row += 1
                    yield row, document
                first += batch.num_rows
                if row == stop < begin:
                    break
            if row < stop or first > begin:
                raise columns.pyarrow.ArrowInvalid(f"it has not the {rows} rows that the file says")
        except Exception as error:
            columns.raise_unless_damage(error, row)
            yield stop, refuse(file, row, f"the rest of row group {group} is damaged: {error}")
