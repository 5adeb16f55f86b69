"""Files of documents in every format, for the tests of the document iterators."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from asyncprefetch.iterators import DocumentFileIterator, DocumentFileState
from tests.iterators.sources import drain

LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLES = (".parquet", ".arrow", ".stream.arrow")
FORMATS = LINES + TABLES
"""The formats with rows. ``.stream.arrow`` files have Arrow's stream format."""

Row = dict[str, Any]


def lines_of(rows: list[Row | None]) -> bytes:
    """Return the rows as JSON lines. ``None`` becomes a blank line."""
    return b"".join(b"\n" if row is None else json.dumps(row).encode() + b"\n" for row in rows)


def write(path: Path, rows: list[Row], group: int = 2, compression: str | None = None) -> Path:
    """Write rows in the format of the name, with ``group`` rows in each row group, record batch or compressed frame."""
    name = path.name
    if name.endswith(".jsonl"):
        path.write_bytes(lines_of(rows))
    elif name.endswith(LINES):
        compress = gzip.compress if name.endswith(".gz") else zstandard.ZstdCompressor(write_checksum=True).compress
        groups = [lines_of(rows[i : i + group]) for i in range(0, len(rows), group)]
        path.write_bytes(b"".join(map(compress, groups)))
    else:
        write_table(path, pa.Table.from_pylist(rows), group, compression)
    return path


def write_table(path: Path, table: pa.Table, group: int = 2, compression: str | None = None) -> Path:
    if path.name.endswith(".parquet"):
        pq.write_table(table, path, row_group_size=group, compression=compression or "snappy")
        return path
    options = pa.ipc.IpcWriteOptions(compression=compression)
    new = pa.ipc.new_stream if path.name.endswith(".stream.arrow") else pa.ipc.new_file
    with new(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=group)
    return path


def ids(iterator: DocumentFileIterator) -> list[str]:
    return [document.sample_id for document in drain(iterator)]


def after(iterator: DocumentFileIterator, count: int) -> DocumentFileState:
    """Return the state after ``count`` documents."""
    documents = iterator.create_iter()
    for _ in range(count):
        next(documents)
    return iterator.get_state()


def start_of_batch(path: Path, number: int) -> int:
    """Return the offset of a record batch in an Arrow file of either kind without dictionaries."""
    with pa.OSFile(str(path)) as source:
        source.seek(0 if path.name.endswith(".stream.arrow") else 8)
        reader = pa.ipc.MessageReader.open_stream(source)
        for _ in range(1 + number):
            reader.read_next_message()
        return int(source.tell())
