"""Files in other encodings than UTF-8."""

from __future__ import annotations

import gzip
import io
import logging
from pathlib import Path
from typing import Any

import pytest
import zstandard

from asyncprefetch.iterators import Document, DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import counters
from tests.iterators.corpora import LINES, after, ids, write
from tests.iterators.sources import drain

COMPRESS: dict[str, Any] = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}
WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
# The characters U+0A0A and U+0A00 hold the byte of a line feed.
ROWS = '{"text": "\u0a0a\u0a00"}\n\n{"text": "\U0001f600 \u0100\u0a00"}\r\n{"text": ""}\n \n{"text": "no line end"}'
TEXTS = ["\u0a0a\u0a00", "\U0001f600 \u0100\u0a00", "", "no line end"]


@pytest.mark.parametrize("suffix", LINES)
@pytest.mark.parametrize("encoding", [*WIDE, "utf-8", "utf-8-sig", "U8", "gb18030"])
def test_lines_of_another_encoding_resume_exactly(tmp_path: Path, suffix: str, encoding: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESS[suffix](ROWS.encode(encoding)))

    def make(index: int = 0, count: int = 1) -> DocumentFileIterator:
        return DocumentFileIterator(path, encoding=encoding, shard=(index, count))

    documents = drain(make())
    assert [document.text for document in documents] == TEXTS
    assert [document.row for document in documents] == [0, 2, 3, 5]
    assert_resumes_exactly(make)
    assert [drain(make(i, 2)) for i in range(2)] == [documents[::2], documents[1::2]]
    state = after(make(), 2)
    assert state.offset == len("".join(io.StringIO(ROWS, newline="\n").readlines()[:3]).encode(encoding))
    with pytest.raises(DocumentError, match="no row begins at byte"):
        drain(state.model_copy(update={"offset": state.offset - 4}).build())


@pytest.mark.parametrize("encoding", [*WIDE, "cp1252", "gb18030", "utf-8-sig"])
def test_a_text_of_another_encoding_has_no_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    text = "na\u00efve\n" if encoding == "cp1252" else "\U0001f600\n"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    if encoding in {"utf-16-le", "utf-32-be"}:
        (tmp_path / "a.txt").write_bytes(f"\ufeff{text}".encode(encoding))
    assert drain(DocumentFileIterator(tmp_path, encoding=encoding)) == [Document("a.txt", text)]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [*LINES, ".txt"])
def test_a_file_without_the_mark_that_says_the_order_is_an_error_of_the_file(
    tmp_path: Path, encoding: str, suffix: str
) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(COMPRESS.get(suffix, bytes)(ROWS.encode(f"{encoding}-be")))
    with pytest.raises(DocumentError, match=rf"no byte order mark of {encoding}: .*encoding='{encoding}-be'") as caught:
        drain(DocumentFileIterator(path, encoding=encoding))
    assert (caught.value.file, caught.value.row) == (path.name, None)
    (tmp_path / "y.jsonl").write_bytes('{"text": "y"}\n'.encode(encoding))
    counters.drain()
    assert ids(DocumentFileIterator(tmp_path, encoding=encoding, on_error="skip")) == ["y.jsonl:0"]
    assert counters.drain() == {"documents skipped": 1}


def test_a_row_that_is_not_in_the_encoding_is_an_error_of_that_row_or_is_replaced(tmp_path: Path) -> None:
    half = "\ud83d".encode("utf-16-le", "surrogatepass")
    rows = [f'{{"text": "{text}"}}\n'.encode("utf-16-le") for text in "a?b"]
    rows[1] = rows[1].replace("?".encode("utf-16-le"), half)
    (tmp_path / "x.jsonl").write_bytes(b"".join(rows))
    with pytest.raises(DocumentError, match=r"row 1 \(line 2\): not UTF-16-LE .*encoding_errors='replace'"):
        drain(DocumentFileIterator(tmp_path, encoding="utf-16-le"))
    assert ids(DocumentFileIterator(tmp_path, encoding="utf-16-le", on_error="skip")) == ["x.jsonl:0", "x.jsonl:2"]
    replaced = drain(DocumentFileIterator(tmp_path, encoding="utf-16-le", encoding_errors="replace"))
    assert [document.text for document in replaced] == ["a", "\ufffd", "b"]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_damaged_file_of_another_encoding_gives_its_whole_rows(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / f"x{suffix}"
    rows = [f'{{"text": "{i}"}}\n'.encode("utf-16-be") for i in range(3)]
    for cut in range(len(rows[2])):
        path.write_bytes(COMPRESS[suffix](rows[0] + rows[1] + rows[2][:cut]) + b"garbage")
        iterator = DocumentFileIterator(path, encoding="utf-16-be", on_error="skip")
        assert ids(iterator) == [f"x{suffix}:{i}" for i in range(2 + (cut == len(rows[2]) - 2))]


def test_tables_are_utf8_whatever_the_encoding(tmp_path: Path) -> None:
    for suffix in (".parquet", ".arrow"):
        write(tmp_path / f"x{suffix}", [{"text": "\u00e4"}])
    assert [document.text for document in drain(DocumentFileIterator(tmp_path, encoding="utf-16"))] == ["\u00e4"] * 2


@pytest.mark.parametrize(
    ("encoding", "reason"), [("no such", "not 'no such'"), ("rot13", "not 'rot13'"), ("cp037", "has another line feed")]
)
def test_refuses_an_encoding_that_it_can_not_split_into_lines(tmp_path: Path, encoding: str, reason: str) -> None:
    write(tmp_path / "x.jsonl", [{"text": "a"}])
    with pytest.raises(ValueError, match=reason):
        DocumentFileIterator(tmp_path, encoding=encoding)
