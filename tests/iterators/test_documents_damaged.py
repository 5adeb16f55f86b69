"""Damaged and truncated files: every whole row before the damage is delivered, and the error names the row after it."""

from __future__ import annotations

import gzip
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from asyncprefetch.iterators import DocumentError, DocumentFileIterator, DocumentFileState
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import compressed, counters
from tests.iterators.corpora import FORMATS, after, lines_of, start_of_batch, write
from tests.iterators.sources import drain

TEXTS = [f"row {i}" for i in range(6)]
COMPRESSED = (".jsonl.gz", ".jsonl.zst")


def expand(data: bytes, suffix: str) -> bytes:
    """Return what compressed data holds before its end or its first damage. Decompress it byte by byte."""
    parts: list[bytes] = []
    frame: Any = None
    for i in range(len(data)):
        if frame is None:
            frame = zlib.decompressobj(31) if suffix == ".jsonl.gz" else zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(data[i : i + 1]))
        except (zlib.error, zstandard.ZstdError):
            break
        frame = None if frame.eof else frame
    return b"".join(parts)


def whole_rows(content: bytes) -> list[str]:
    """Return the texts of the lines before the first that is no JSON object."""
    texts = []
    for line in content.split(b"\n"):
        try:
            texts.append(json.loads(line)["text"])
        except (ValueError, KeyError):
            break
    return texts


def before_error(iterator: DocumentFileIterator) -> tuple[list[str], DocumentError | None]:
    """Return the texts of the documents before the error, and the error."""
    texts = []
    try:
        for document in iterator.create_iter():
            texts.append(document.text)
    except DocumentError as error:
        return texts, error
    return texts, None


def skipping(path: Path, index: int = 0, count: int = 1) -> DocumentFileIterator:
    return DocumentFileIterator(path, on_error="skip", shard=(index, count))


@pytest.mark.parametrize(
    ("suffix", "chunk"), [*((suffix, 1 << 18) for suffix in FORMATS), *((suffix, 4) for suffix in COMPRESSED)]
)
def test_a_file_cut_at_any_byte_gives_exactly_its_whole_rows_and_then_the_error(
    tmp_path: Path, suffix: str, chunk: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(compressed, "_CHUNK", chunk)
    path = write(tmp_path / f"x{suffix}", [{"text": text} for text in TEXTS], group=2)
    content = path.read_bytes()
    ends = [start_of_batch(path, number) for number in range(1, 4)] if suffix.endswith(".arrow") else []
    frames = {i for i in range(1, len(content)) if suffix in COMPRESSED and content[i:].startswith(content[:4])}
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        if suffix == ".jsonl":
            expected = whole_rows(content[:cut])
        elif suffix in COMPRESSED:
            expected = whole_rows(expand(content[:cut], suffix))
        else:
            expected = TEXTS[: 2 * sum(end <= cut for end in ends)]
        texts, error = before_error(DocumentFileIterator(path))
        assert texts == expected == TEXTS[: len(texts)]
        between = content[:cut].endswith((b"}", b"\n")) if suffix == ".jsonl" else cut in frames
        assert (error is None) == between
        if error is not None:
            assert error.file == path.name
            assert error.row == (None if cut == 0 or suffix == ".parquet" else len(texts))
        assert [document.text for document in drain(skipping(path))] == texts
        if cut % 23 == 0:
            halves = [[document.text for document in drain(skipping(path, i, 2))] for i in range(2)]
            assert sorted(halves[0] + halves[1]) == texts
            assert_resumes_exactly(lambda: skipping(path))
            assert_resumes_exactly(lambda: skipping(path, 1, 2))


@pytest.mark.parametrize("suffix", COMPRESSED)
@pytest.mark.parametrize("chunk", [4, 1 << 18])
def test_a_compressed_file_with_any_byte_changed_gives_what_it_holds_before_the_damage(
    tmp_path: Path, suffix: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "_CHUNK", chunk)
    path = write(tmp_path / f"x{suffix}", [{"text": text} for text in TEXTS], group=2)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        expected = whole_rows(expand(path.read_bytes(), suffix))
        texts, error = before_error(DocumentFileIterator(path))
        assert texts == expected
        assert error is None or error.row == len(texts)
        if place % 5 == 0:
            assert_resumes_exactly(lambda: skipping(path))


@pytest.mark.parametrize("suffix", COMPRESSED)
def test_what_a_damaged_piece_of_a_large_frame_holds_before_the_damage_is_read(tmp_path: Path, suffix: str) -> None:
    rows = lines_of([{"text": f"row {i} {os.urandom(40).hex()}"} for i in range(5_000)])
    if suffix == ".jsonl.gz":
        gz = zlib.compressobj(wbits=31)
        packed = gz.compress(rows) + gz.flush(zlib.Z_FULL_FLUSH)
    else:
        zst = zstandard.ZstdCompressor().compressobj()
        packed = zst.compress(rows) + zst.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    path = tmp_path / f"x{suffix}"
    path.write_bytes(packed + b"\xff" * 100)  # not the beginning of a block
    texts, error = before_error(DocumentFileIterator(path))
    assert len(texts) == 5_000
    assert error is not None
    assert error.row == 5_000
    assert "row 5000 (line 5001): the compressed file is damaged from here on" in str(error)
    state = after(DocumentFileIterator(path), 4_999)
    assert before_error(state.build())[0] == texts[-1:]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("garbage", r"incorrect header check"),
        ("checksum", r"incorrect data check"),
        ("cut", r"it ends within a member of gzip"),
    ],
)
@pytest.mark.parametrize("end", ["\n", ""])
def test_a_gzip_file_with_a_damaged_second_member_gives_all_rows_before_it(
    tmp_path: Path, damage: str, reason: str, end: str
) -> None:
    first = gzip.compress(lines_of([{"text": "a"}, None, {"text": "b"}]))
    second = gzip.compress(b'{"text": "c"}' + end.encode())
    broken = {
        "garbage": second + b"garbage",
        "checksum": second[:-8] + bytes([second[-8] ^ 1]) + second[-7:],
        "cut": second[:-1],
    }[damage]
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(first + broken)
    iterator = DocumentFileIterator(path)
    documents = iterator.create_iter()
    states: list[DocumentFileState] = [iterator.get_state()]
    for text in "abc":
        assert next(documents).text == text
        states.append(iterator.get_state())
    message = rf"x\.jsonl\.gz, row 4 \(line 5\): the compressed file is damaged from here on: .*{reason}"
    with pytest.raises(DocumentError, match=message) as caught:
        next(documents)
    assert (caught.value.file, caught.value.row) == ("x.jsonl.gz", 4)
    assert iterator.get_state() == states[-1]
    for number, state in enumerate(states):
        texts, error = before_error(state.build())
        assert (texts, str(error)) == (["a", "b", "c"][number:], str(caught.value))


def test_damage_is_counted_and_logged_once_and_the_next_file_follows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(lines_of([{"text": "a"}])) + b"garbage")
    write(tmp_path / "y.jsonl", [{"text": "b"}])
    counters.drain()
    assert [document.text for document in drain(skipping(tmp_path))] == ["a", "b"]
    assert counters.drain() == {"documents skipped": 1}
    (record,) = caplog.records
    assert "x.jsonl.gz, row 1 (line 2): the compressed file is damaged from here on" in record.getMessage()
    for i in range(2):
        assert_resumes_exactly(lambda i=i: skipping(tmp_path, i, 2))  # type: ignore[misc]


def test_zeros_may_follow_a_member_of_gzip(tmp_path: Path) -> None:
    member = gzip.compress(lines_of([{"text": "a"}]))
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(member + bytes(300_000) + member + bytes(7))
    assert [document.text for document in drain(DocumentFileIterator(path))] == ["a", "a"]
    path.write_bytes(bytes(1) + member)
    with pytest.raises(DocumentError, match=r"row 0 .*incorrect header check"):
        drain(DocumentFileIterator(path))


def test_a_part_of_a_row_before_damage_is_no_row_even_if_it_is_json(tmp_path: Path) -> None:
    for line in (b'{"text": "b"', b"12", b'"b"', b"[1]"):
        (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' + line) + b"garbage")
        texts, error = before_error(DocumentFileIterator(tmp_path))
        assert texts == ["a"]
        assert error is not None
        assert "row 1 (line 2): the compressed file is damaged from here on" in str(error)


@pytest.mark.parametrize("lists", [False, True])
def test_the_rows_of_a_parquet_file_before_a_damaged_page_are_read(tmp_path: Path, lists: bool) -> None:
    table = pa.table({"text": [f"row {i} {os.urandom(30).hex()}" for i in range(2000)]})
    if lists:
        table = table.append_column("entropies", pa.array([[float(i)] * 3 for i in range(2000)]))
    path = tmp_path / "x.parquet"
    pages: dict[str, Any] = {"data_page_size": 2000, "write_batch_size": 20, "use_dictionary": False}
    pq.write_table(table, path, row_group_size=1000, compression="zstd", **pages)
    content = path.read_bytes()
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    place = column.data_page_offset
    for _ in range(13):
        place = content.index(b"\x28\xb5\x2f\xfd", place + 1)  # the beginning of a zstd frame, which is a page
    assert place < column.data_page_offset + column.total_compressed_size
    path.write_bytes(content[:place] + b"\xff" * 20 + content[place + 20 :])
    texts, error = before_error(DocumentFileIterator(path))
    rows = len(texts)
    assert rows % 20 == 0
    assert rows % 256 != 0  # a page, not the batch that is decoded at a time
    assert rows > 256
    assert texts == table["text"].to_pylist()[:rows]
    assert error is not None
    assert error.row == rows
    assert f"x.parquet, row {rows}: the rest of row group 0 is damaged" in str(error)
    assert [document.row for document in drain(skipping(path))] == [*range(rows), *range(1000, 2000)]
    state = after(skipping(path), rows - 1)
    assert [document.row for document in drain(state.build())] == [rows - 1, *range(1000, 2000)]
    halves = [[document.row for document in drain(skipping(path, i, 2))] for i in range(2)]
    assert halves == [list(range(rows)), list(range(1000, 2000))]


def test_an_arrow_file_whose_index_is_damaged_is_read_to_the_index(tmp_path: Path) -> None:
    rows = [text * 4000 for text in TEXTS]  # so that the index lies after the head
    path = write(tmp_path / "x.arrow", [{"text": row} for row in rows], group=2)
    content = path.read_bytes()
    second = after(DocumentFileIterator(path), 3)
    path.write_bytes(content[:-6] + b"ORROW1")
    iterator = DocumentFileIterator(path)
    documents = iterator.create_iter()
    states = [(next(documents), iterator.get_state())[1] for _ in TEXTS]
    with pytest.raises(
        DocumentError, match=r"row 6: .*the index at the end of the file is missing or damaged"
    ) as caught:
        next(documents)
    assert caught.value.row == 6
    assert_resumes_exactly(lambda: skipping(path))
    # A place by the number of a batch has no meaning without the index.
    with pytest.raises(
        DocumentError, match=r"row 3: the index at its end is missing or damaged, .* the file has changed"
    ):
        drain(second.build())
    # A place that was taken without the index has a meaning with it.
    path.write_bytes(content)
    for number, state in enumerate(states, 1):
        assert [document.text for document in drain(state.build())] == rows[number:]
