"""Files of JSON lines, plain and compressed."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import os
import tracemalloc
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic_core import from_json

from asyncprefetch.iterators import Document, DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import compressed, counters
from tests.iterators.corpora import LINES, after, ids, lines_of, write
from tests.iterators.sources import drain

BIG = [{"text": f"row {i} " + "x" * 5000} for i in range(100)]
"""Rows that together are far larger than the head of a file."""


def bytes_read() -> int:
    """Return the number of bytes that this process has requested from the system."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_resuming_seeks_and_reads_nothing_before_the_place(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", BIG)
    state = after(DocumentFileIterator(path), 60)
    content = path.read_bytes()
    path.write_bytes(content[: 1 << 16] + b"\xff" * (state.offset - 1 - (1 << 16)) + content[state.offset - 1 :])
    assert ids(state.build()) == [f"x.jsonl:{i}" for i in range(60, 100)]


@pytest.mark.skipif(not os.path.exists("/proc/self/io"), reason="the system must count the bytes that were read")
def test_resuming_at_the_end_of_ten_gigabytes_reads_a_few_hundred_kilobytes(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    first = lines_of([{"text": "first"}])
    with path.open("wb") as file:  # the hole of zeros in the middle takes no space
        file.write(first)
        file.seek(10 << 30)
        file.write(b"\n" + lines_of([{"text": "last"}]))
    state = after(DocumentFileIterator(path), 1).model_copy(update={"offset": (10 << 30) + 1, "row": 2})
    before = bytes_read()
    assert [d.text for d in drain(state.build())] == ["last"]
    assert bytes_read() - before < 1_000_000


def test_the_head_is_that_of_65536_bytes_and_the_same_wherever_one_resumed(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", BIG)
    iterator = DocumentFileIterator(path)
    documents = iterator.create_iter()
    heads = {(next(documents), iterator.get_state())[1].head for _ in range(90)}
    assert len(heads) == 1
    content = bytearray(path.read_bytes())
    state = iterator.get_state()
    content[1 << 16] ^= 1
    path.write_bytes(content)
    assert len(drain(state.build())) == 10
    content[(1 << 16) - 1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DocumentError, match="its first bytes differ"):
        drain(state.build())


@pytest.mark.parametrize("suffix", LINES)
def test_a_row_that_moved_in_a_file_of_the_same_size_and_head_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", BIG)
    state = after(DocumentFileIterator(path), 60)
    for offset in (state.offset - 3, state.offset + (1 << 30)):
        with pytest.raises(DocumentError, match=rf"row 60 \(line 61\): no row begins at byte {offset}"):
            drain(state.model_copy(update={"offset": offset}).build())


@pytest.mark.parametrize("suffix", LINES)
def test_a_resume_of_a_compressed_file_says_that_it_reads_again(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    state = after(DocumentFileIterator(write(tmp_path / f"x{suffix}", BIG)), 60)
    with caplog.at_level(logging.INFO):
        assert len(drain(state.build())) == 40
    messages = [record.getMessage() for record in caplog.records]
    said = [f"{tmp_path}/x{suffix} is compressed: reading {state.offset} bytes of it again to get to row 60"]
    assert messages == ([] if suffix == ".jsonl" else said)


@pytest.mark.parametrize("suffix", LINES)
def test_blank_lines_are_rows_and_no_documents_and_the_last_line_needs_no_end(tmp_path: Path, suffix: str) -> None:
    content = b'\n{"text": "a"}\r\n  \r\n\n{"text": "b"}\n\t\n{"text": "c"}'
    compress: Any = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    (tmp_path / f"x{suffix}").write_bytes(compress(content))
    assert ids(DocumentFileIterator(tmp_path)) == [f"x{suffix}:{i}" for i in (1, 4, 6)]
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path))


@pytest.mark.parametrize("suffix", LINES)
@pytest.mark.parametrize("first", [b"", b"\n", b" \r\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_row_and_offsets_count_it(
    tmp_path: Path, suffix: str, first: bytes
) -> None:
    path = tmp_path / f"x{suffix}"
    compress: Any = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    rows = first + lines_of([{"text": "a"}, {"text": "b"}, None, {"text": "c"}])
    path.write_bytes(compress(rows))
    without = [after(DocumentFileIterator(path), n) for n in range(1, 4)]
    documents = drain(DocumentFileIterator(path))
    path.write_bytes(compress(codecs.BOM_UTF8 + rows))
    assert drain(DocumentFileIterator(path)) == documents
    states = [after(DocumentFileIterator(path), n) for n in range(1, 4)]
    assert [state.offset for state in states] == [3 + state.offset for state in without]
    assert [state.row for state in states] == [state.row for state in without]
    assert_resumes_exactly(lambda: DocumentFileIterator(path))
    halves = [drain(DocumentFileIterator(path, shard=(i, 2))) for i in range(2)]
    assert halves == [documents[::2], documents[1::2]]


@pytest.mark.parametrize("suffix", LINES)
def test_a_file_of_a_byte_order_mark_alone_is_empty(tmp_path: Path, suffix: str) -> None:
    compress: Any = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    (tmp_path / f"x{suffix}").write_bytes(compress(codecs.BOM_UTF8))
    with pytest.raises(DocumentError, match="the file is empty: it has no rows"):
        drain(DocumentFileIterator(tmp_path))


@pytest.mark.parametrize("suffix", LINES)
@pytest.mark.parametrize("encoding", ["UTF-16", "UTF-32"])
@pytest.mark.parametrize("order", ["le", "be"])
def test_the_byte_order_mark_of_another_encoding_is_an_error_of_the_file_and_counts_once(
    tmp_path: Path, suffix: str, encoding: str, order: str
) -> None:
    compress: Any = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}[suffix]
    text = "\ufeff" + lines_of([{"text": "a"}, {"text": "b"}]).decode()
    (tmp_path / f"x{suffix}").write_bytes(compress(text.encode(f"{encoding}-{order}")))
    write(tmp_path / "y.jsonl", [{"text": "c"}, {"text": "d"}])
    advice = f"use encoding='{encoding.lower()}' for such files, convert"
    message = rf"x{suffix}: it begins with the byte order mark of {encoding}: {advice}"
    with pytest.raises(DocumentError, match=message) as caught:
        drain(DocumentFileIterator(tmp_path))
    assert (caught.value.file, caught.value.row) == (f"x{suffix}", None)
    counters.drain()
    assert ids(damaged(tmp_path, (0, 1))) == ["y.jsonl:0", "y.jsonl:1"]
    assert counters.drain() == {"documents skipped": 1}
    assert [ids(damaged(tmp_path, (i, 2))) for i in range(2)] == [["y.jsonl:0"], ["y.jsonl:1"]]
    assert_resumes_exactly(lambda: damaged(tmp_path, (0, 1)))


BAD_ROWS = [
    (b'{"text": "a', "broken JSON"),
    (b"[" * 100_000, "broken JSON"),
    (b'{"text": "a"} {}', "broken JSON"),
    (b'{"text": 1' + b"0" * 5000 + b"}", "broken JSON"),
    (b'\xef\xbb\xbf{"text": "a"}', "broken JSON"),
    (b'["text"]', "must be a JSON object with the field 'text'"),
    (b"null", "must be a JSON object with the field 'text'"),
    (b'{"body": "a", "id": 1}', "the field 'text' is missing; the row has 'body', 'id'"),
    (b"{}", "the field 'text' is missing; the row has none"),
    (b'{"text": 3}', "the field 'text' must be a string, not 3"),
    (b'{"text": null}', "the field 'text' must be a string, not None"),
    (b'{"text": "a", "sample_id": [1]}', "the field 'sample_id' must be a string or an integer"),
    (b'{"text": "a", "sample_id": true}', "the field 'sample_id' must be a string or an integer"),
    (b'{"text": "a", "entropies": "0.5"}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a", "entropies": 0.5}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a", "entropies": [0.5, null]}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a", "entropies": [0.5, NaN]}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a", "entropies": [[1], [1, 2]]}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a", "entropies": [["0"], [1]]}', "the field 'entropies' must be a list of finite numbers"),
    (b'{"text": "a\xff"}', "not UTF-8"),
    (b'{"text": "\\ud800"}', "not UTF-8"),
    (b'{"text": "a", "sample_id": "\\udc00"}', "not UTF-8"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS)
def test_a_bad_row_is_an_error_that_names_it_and_the_rest_resumes_at_it(
    tmp_path: Path, line: bytes, reason: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    iterator = DocumentFileIterator(tmp_path)
    documents = iterator.create_iter()
    assert next(documents).text == "good"
    with pytest.raises(DocumentError, match=reason) as caught:
        next(documents)
    assert f"{path}, row 2 (line 3): " in str(caught.value)
    assert (caught.value.file, caught.value.row) == ("bad.jsonl", 2)
    with pytest.raises(DocumentError, match=reason):
        next(iterator.get_state().build().create_iter())

    counters.drain()
    assert ids(DocumentFileIterator(tmp_path, on_error="skip")) == ["bad.jsonl:0", "bad.jsonl:3"]
    assert counters.drain() == {"documents skipped": 1}
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path, on_error="skip"))


def test_a_column_that_was_asked_for_and_is_missing_is_an_error_that_names_the_row(tmp_path: Path) -> None:
    write(tmp_path / "x.jsonl", [{"text": "a", "lang": "de"}, {"text": "b", "n": 1}])
    with pytest.raises(DocumentError, match=r"row 1 \(line 2\): the field 'lang' is missing; the row has 'text', 'n'"):
        drain(DocumentFileIterator(tmp_path, columns=("lang",)))


def test_bytes_that_are_no_utf8_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(
        b'{"text": "\xff \\ud83d\\ude00"}\n{"text": "<\\ud800>", "sample_id": "\\udc00", "lang": ["\\udc00"]}\n'
    )
    documents = drain(DocumentFileIterator(tmp_path, encoding_errors="replace"))
    assert [d.text for d in documents] == ["\ufffd \U0001f600", "<\ufffd\ufffd\ufffd>"]
    assert documents[1].sample_id == "\ufffd" * 3


def test_half_characters_in_fields_of_no_use_are_of_no_matter(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "a", "other": "\\ud800"}\n')
    assert drain(DocumentFileIterator(tmp_path)) == [Document("b.jsonl:0", "a")]
    with pytest.raises(DocumentError, match="not UTF-8"):
        drain(DocumentFileIterator(tmp_path, columns=("other",)))


def test_entropies_are_float64_whatever_kind_of_numbers_they_are(tmp_path: Path) -> None:
    rows = [[0.5, 1], [1, 2], [], [1e308], [10**18, -1]]
    write(tmp_path / "x.jsonl", [{"text": "a", "entropies": row} for row in rows])
    for row, document in zip(rows, drain(DocumentFileIterator(tmp_path)), strict=True):
        assert document.entropies.dtype == np.float64
        assert document.entropies.tolist() == row
        assert document.entropies.flags.writeable
    assert [d.entropies for d in drain(DocumentFileIterator(tmp_path, entropies_field=None))] == [None] * 5


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
@pytest.mark.parametrize("damage", ["cut", "cut after a group", "one byte", "no such file"])
def test_a_damaged_compressed_file_is_an_error_that_names_the_row_and_can_be_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, damage: str
) -> None:
    monkeypatch.setattr(compressed, "_CHUNK", 64)
    path = write(tmp_path / f"x{suffix}", [{"text": f"row {i}"} for i in range(30)], group=10)
    write(tmp_path / "y.jsonl", [{"text": "y"}])
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "cut":
        path.write_bytes(content[: middle + 3])
    elif damage == "cut after a group":  # and after a part of the next group's header
        path.write_bytes(content[: content.index(content[:4], 1) + 2])
    elif damage == "one byte":
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    else:
        path.write_bytes(b"no such file")
    # A changed byte shows in a row, or else in the checksum at the end of its group.
    reason = "damaged from here on|not UTF-8|broken JSON" if damage == "one byte" else "damaged from here on"
    with pytest.raises(DocumentError, match=reason) as caught:
        drain(DocumentFileIterator(tmp_path))
    row = caught.value.row
    assert caught.value.file == f"x{suffix}"
    assert row is not None
    counters.drain()
    texts = [d.text for d in drain(DocumentFileIterator(tmp_path, on_error="skip"))]
    if damage == "no such file":
        assert counters.drain() == {"documents skipped": 1}
    if damage != "one byte":
        assert texts == [f"row {i}" for i in range(row)] + ["y"]
    halves = [[d.text for d in drain(damaged(tmp_path, (i, 2)))] for i in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(texts)
    for shard in ((0, 1), (0, 2), (1, 2)):
        assert_resumes_exactly(lambda shard=shard: damaged(tmp_path, shard))  # type: ignore[misc]


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_damaged_compressed_file_breaks_off_at_the_same_row_wherever_one_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(compressed, "_CHUNK", 5000)
    random = Random(7)
    path = write(tmp_path / f"x{suffix}", [{"text": random.randbytes(2500).hex()} for _ in range(60)], group=25)
    content = path.read_bytes()
    second = content.index(content[:4], 1)
    for place in (1000, second // 2, second, second + 1000):
        path.write_bytes(content[:place] + b"\xff" * 8 + content[place + 8 :])
        whole = ids(damaged(tmp_path, (0, 1)))
        for position in range(len(whole)):
            assert ids(after(damaged(tmp_path, (0, 1)), position).build()) == whole[position:]


def damaged(folder: Path, shard: tuple[int, int]) -> DocumentFileIterator:
    return DocumentFileIterator(folder, on_error="skip", shard=shard)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(
    value=json_values,
    ascii_only=st.booleans(),
    damage=st.none() | st.tuples(st.integers(0, 200), st.binary(max_size=3)),
)
@example(value="\ud800", ascii_only=True, damage=None)
@example(value={"a": "\ud83d\ude00", "b": 10**400}, ascii_only=True, damage=None)
@example(value=[0.1, 1e-320, -0.0, float("inf")], ascii_only=True, damage=None)
def test_what_the_quick_parser_takes_it_understands_as_the_standard_library_does(
    value: Any, ascii_only: bool, damage: tuple[int, bytes] | None
) -> None:
    line = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n"
    if damage is not None:
        place = damage[0] % len(line)
        line = line[:place] + damage[1] + line[place + 1 :]
    try:
        quick = from_json(line)
    except ValueError:
        return
    exact = json.loads(line.decode("utf-8"))
    assert repr(quick) == repr(exact)
    repr(quick).encode()  # fails on lone surrogates


@pytest.mark.parametrize("field", [b"", b'"half": "\\ud800 [[[ \\" ]]", '])
def test_how_deep_a_row_may_nest_depends_on_no_stack(tmp_path: Path, field: bytes) -> None:
    def row(depth: int) -> bytes:
        return b"{" + field + b'"text": "a", "x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}\n"

    def read(stack: int) -> list[str]:
        return read(stack - 1) if stack else ids(DocumentFileIterator(tmp_path, on_error="skip"))

    (tmp_path / "x.jsonl").write_bytes(row(201) + row(202) + row(500) + row(900) + row(200))
    assert read(0) == read(400) == ["x.jsonl:0", "x.jsonl:4"]
    with pytest.raises(DocumentError, match=r"row 1 \(line 2\): broken JSON: it is nested deeper than 201 levels"):
        drain(DocumentFileIterator(tmp_path))


def test_little_of_a_zstd_file_is_expanded_at_a_time(tmp_path: Path) -> None:
    first = b'{"text": "a"}\n'
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(first + b" " * (300 << 20)))
    tracemalloc.start()
    try:
        assert next(DocumentFileIterator(tmp_path).create_iter()).text == "a"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100 << 20


@pytest.mark.parametrize("log", [27, 31])
def test_the_longest_window_of_zstd_is_read(tmp_path: Path, log: int) -> None:
    line = b'{"text": "a"}\n'
    block = (len(line) << 3 | 1).to_bytes(3, "little") + line
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + block
    (tmp_path / "x.jsonl.zst").write_bytes(zstandard.compress(line) + frame + zstandard.compress(line))
    assert len(ids(DocumentFileIterator(tmp_path))) == 3


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_a_lack_of_memory_for_a_compressed_file_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    write(tmp_path / f"x{suffix}", [{"text": "a"}])

    class Without:
        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def decompressobj(self) -> Any:
            return self

        def decompress(self, data: bytes) -> bytes:
            if suffix == ".jsonl.gz":
                raise zlib.error("Error -4 while decompressing data: insufficient memory")
            raise zstandard.ZstdError("zstd decompressor error: Allocation error : not enough memory")

    monkeypatch.setattr(zlib, "decompressobj", Without)
    monkeypatch.setattr(zstandard, "ZstdDecompressor", Without)
    with pytest.raises(MemoryError, match=r"not enough memory|insufficient memory"):
        drain(DocumentFileIterator(tmp_path, on_error="skip"))


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_file_that_gets_shorter_while_it_is_read_is_an_error(tmp_path: Path, suffix: str, on_error: Any) -> None:
    rows = [f'{{"text": "{Random(i).random()} {i:08}"}}\n'.encode() for i in range(50_000)]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"".join(rows) if suffix == ".jsonl" else gzip.compress(b"".join(rows)))
    documents = DocumentFileIterator(path, on_error=on_error).create_iter()
    next(documents)
    os.truncate(path, sum(map(len, rows[:30_000])) if suffix == ".jsonl" else path.stat().st_size * 3 // 5)
    with pytest.raises(DocumentError, match="its size is not"):
        list(documents)
