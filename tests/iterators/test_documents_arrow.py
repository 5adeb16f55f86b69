"""Arrow files that other programs wrote, damaged Arrow files, and positions that an older version saved."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from asyncprefetch import IteratorState
from asyncprefetch.iterators import DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import Columns, columnar, counters
from tests.iterators.corpora import TABLES, after, start_of_batch, write, write_table
from tests.iterators.sources import drain

ARROW = TABLES[1:]
ROWS = [f"row {i}" for i in range(9)]


def texts(path: Path, shard: tuple[int, int] = (0, 1), **options: Any) -> list[str]:
    return [d.text for d in drain(DocumentFileIterator(path, shard=shard, **options))]


def assert_passed_over(folder: Path, kept: list[str], errors: int = 1) -> None:
    """Check for 1, 2 and 3 shards: they give these texts, resume exactly, and each counts the errors."""
    for count in (1, 2, 3):
        counters.drain()
        shards = [texts(folder, (i, count), on_error="skip", encoding_errors="replace") for i in range(count)]
        assert counters.drain() == {"documents skipped": errors * count}
        assert sorted(text for shard in shards for text in shard) == sorted(kept)
        for i in range(count):
            assert_resumes_exactly(
                lambda i=i, count=count: DocumentFileIterator(folder, on_error="skip", shard=(i, count))
            )  # type: ignore[misc]


@pytest.fixture
def beside(tmp_path: Path) -> list[str]:
    """Write another file, which sorts after the damaged one. Return its texts."""
    write(tmp_path / "y.jsonl", [{"text": f"y{i}"} for i in range(6)])
    return [f"y{i}" for i in range(6)]


def test_a_zero_where_a_batch_should_begin_is_an_error_of_that_batch(tmp_path: Path, beside: list[str]) -> None:
    path = write(tmp_path / "x.arrow", [{"text": text} for text in ROWS], group=3)
    content, start = path.read_bytes(), start_of_batch(path, 1)
    path.write_bytes(content[:start] + bytes(8) + content[start + 8 :])
    with pytest.raises(DocumentError, match=r"x.arrow, row 3: the record batch that begins here is damaged"):
        texts(path)
    assert_passed_over(tmp_path, ROWS[:3] + ROWS[6:] + beside)


@pytest.mark.parametrize("zeros", [4, 8])
def test_a_zero_in_a_stream_is_no_end_if_more_follows(tmp_path: Path, beside: list[str], zeros: int) -> None:
    path = write(tmp_path / "x.stream.arrow", [{"text": text} for text in ROWS], group=3)
    content, start = path.read_bytes(), start_of_batch(path, 1)
    path.write_bytes(content[:start] + bytes(zeros) + content[start + zeros :])
    with pytest.raises(DocumentError, match=r"row 3: .*damaged from here on: \d+ bytes follow the end of the stream"):
        texts(path)
    assert_passed_over(tmp_path, ROWS[:3] + beside)


@pytest.mark.parametrize("gap", [0, 56])
def test_the_index_of_a_file_says_where_its_batches_lie(tmp_path: Path, gap: int) -> None:
    """Some writers leave space after the first bytes, and some omit the mark of the end."""
    path = write(tmp_path / "x.arrow", [{"text": text} for text in ROWS], group=3)
    content = path.read_bytes()
    end = start_of_batch(path, 3)
    assert content[end : end + 8] == b"\xff\xff\xff\xff" + bytes(4)
    index = content[end + 8 :]
    for start in (start_of_batch(path, i) for i in range(3)):
        assert index.count(struct.pack("<q", start)) == 1
        index = index.replace(struct.pack("<q", start), struct.pack("<q", start + gap))
    path.write_bytes(content[:8] + bytes(gap) + content[8:end] + index)
    assert texts(path) == ROWS
    assert_resumes_exactly(lambda: DocumentFileIterator(path))


@pytest.mark.parametrize("suffix", ARROW)
def test_a_file_that_is_cut_while_we_read_is_never_passed_over(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": text + "x" * 5000} for text in ROWS * 10], group=10)
    documents = DocumentFileIterator(path, on_error="skip").create_iter()
    next(documents)
    os.truncate(path, 100_000)
    with pytest.raises(DocumentError, match="its size is not the"):
        list(documents)


COLUMNS = {
    "string": pa.array(ROWS),
    "large": pa.array(ROWS, pa.large_string()),
    "dictionary": pa.array(ROWS).dictionary_encode(),
    "list": pa.array([[text] for text in ROWS]),
}


@pytest.mark.parametrize("suffix", ARROW)
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_batch_that_refers_to_what_is_not_there_is_an_error_of_that_batch(
    tmp_path: Path, beside: list[str], suffix: str, kind: str
) -> None:
    """Reading such a row would return other memory, or end the process."""
    table = pa.table({"text": pa.array(ROWS), "used": COLUMNS[kind]})
    path = write_table(tmp_path / f"x{suffix}", table, group=9)
    content = path.read_bytes()
    numbers = {"string": range(0, 46, 5), "large": range(0, 46, 5)}.get(kind, range(9))
    packed = struct.pack("<10q" if kind == "large" else f"<{len(numbers)}i", *numbers)
    width = len(packed) // len(numbers)
    place = content.rindex(packed) + 2 * width
    path.write_bytes(content[:place] + (100).to_bytes(width, "little") + content[place + width :])
    (tmp_path / "y.jsonl").write_text("".join(json.dumps({"text": y, "used": 1}) + "\n" for y in beside))
    with pytest.raises(DocumentError, match="row 0: the record batch that begins here is damaged"):
        texts(path, columns=("used",))
    assert texts(path) == ROWS
    for count in (1, 2):
        counters.drain()
        shards = [texts(tmp_path, (i, count), on_error="skip", columns=("used",)) for i in range(count)]
        assert counters.drain() == {"documents skipped": count}
        assert [sorted(shard) for shard in shards] == [sorted(beside[(i - 9) % count :: count]) for i in range(count)]


@pytest.mark.parametrize("suffix", ARROW)
@pytest.mark.parametrize("error", [pa.ArrowIndexError, pa.ArrowNotImplementedError, pa.ArrowTypeError])
def test_a_value_that_pyarrow_can_not_give_is_an_error_of_that_row(
    tmp_path: Path, beside: list[str], suffix: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"x{suffix}", [{"text": text} for text in ROWS], group=4)
    failing(monkeypatch, "row 5", error("no value"))
    with pytest.raises(DocumentError, match="row 5: the column 'text' can't be read: no value"):
        texts(tmp_path)
    for count in (1, 2, 3):
        shards = [texts(tmp_path, (i, count), on_error="skip") for i in range(count)]
        assert sorted(text for shard in shards for text in shard) == sorted(ROWS[:5] + ROWS[6:] + beside)


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("error", [MemoryError, pa.ArrowMemoryError, pa.ArrowCancelled])
def test_want_of_memory_and_a_stop_are_no_damage(
    tmp_path: Path, suffix: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / f"x{suffix}", [{"text": text} for text in ROWS], group=4)
    with monkeypatch.context() as patch:
        failing(patch, "row 5", error("not now"))
        with pytest.raises(error, match="not now") as caught:
            texts(tmp_path, on_error="skip")
    if issubclass(error, MemoryError):
        assert caught.value.__notes__ == [f"while reading {tmp_path / f'x{suffix}'}, row 5"]

    def fail(*args: Any) -> None:
        raise error("not now")

    monkeypatch.setattr(Columns, "check", fail)
    with pytest.raises(error, match="not now") as caught:
        texts(tmp_path, on_error="skip")
    if issubclass(error, MemoryError):
        assert caught.value.__notes__ == [f"while reading {tmp_path / f'x{suffix}'}, row 0"]


def with_length(path: Path, length: int) -> Path:
    """Set the length of the first compressed buffer of the second batch."""
    content, start = path.read_bytes(), start_of_batch(path, 1)
    place = content.index(b"\x04\x22\x4d\x18", start) - 8  # the lz4 frame is after its length
    path.write_bytes(content[:place] + struct.pack("<q", length) + content[place + 8 :])
    return path


@pytest.mark.parametrize("suffix", ARROW)
@pytest.mark.parametrize("length", [1 << 55, 1 << 62, (1 << 63) - 1, -5])
def test_a_length_that_no_memory_holds_is_damage(tmp_path: Path, beside: list[str], suffix: str, length: int) -> None:
    table = pa.table({"text": [text * 200 for text in ROWS]})
    path = with_length(write_table(tmp_path / f"x{suffix}", table, group=3, compression="lz4"), length)
    with pytest.raises(DocumentError, match=rf"x{suffix}, row 3: .*damaged") as caught:
        texts(path)
    assert (caught.value.file, caught.value.row) == (path.name, 3)
    kept = ROWS[:3] if "stream" in suffix else ROWS[:3] + ROWS[6:]
    assert_passed_over(tmp_path, [text * 200 for text in kept] + beside)


@pytest.mark.parametrize("suffix", ARROW)
def test_want_of_memory_that_the_machine_may_have_is_no_damage(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = pa.table({"text": [text * 200 for text in ROWS]})
    path = with_length(write_table(tmp_path / f"x{suffix}", table, group=3, compression="lz4"), 1 << 55)
    monkeypatch.setattr(columnar, "_physical_memory", lambda: 1 << 55)
    with pytest.raises(MemoryError) as caught:
        texts(path, on_error="skip")
    assert caught.value.__notes__ == [f"while reading {path}, row 3"]


def failing(monkeypatch: pytest.MonkeyPatch, text: str, error: Exception) -> None:
    """Make the conversion of one text raise an error."""
    converter = Columns._converter

    def converting(self: Columns, *args: Any) -> Any:
        convert = converter(self, *args)

        def fail(scalar: Any) -> Any:
            value = convert(scalar)
            if value == text:
                raise error
            return value

        return fail

    monkeypatch.setattr(Columns, "_converter", converting)


@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("suffix", ARROW)
def test_only_the_columns_that_are_used_are_looked_at(tmp_path: Path, suffix: str, compression: str | None) -> None:
    table = pa.table({"other": ["z" * 999] * 9, "text": ROWS, "more": [b"z" * 999] * 9})
    path = write_table(tmp_path / f"x{suffix}", table, group=3, compression=compression)
    content = path.read_bytes()
    assert texts(path) == ROWS
    damaged = content
    if compression:  # the frame with the first column's data is after the frame with its offsets
        frame = b"\x28\xb5\x2f\xfd"
        place = content.index(frame, content.index(frame) + 1)
        damaged = content[:place] + b"\xff" * 4 + content[place + 4 :]
    else:
        offsets = struct.pack("<4i", 0, 999, 1998, 2997)
        assert offsets in content
        damaged = content.replace(offsets, struct.pack("<4i", 0, 1 << 30, 1998, 2997))
    path.write_bytes(damaged)
    assert texts(path) == ROWS
    with pytest.raises(DocumentError, match="damaged"):
        texts(path, columns=("other",))


def test_a_stream_whose_schema_only_speaks_of_dictionaries_is_not_read_from_its_start(tmp_path: Path) -> None:
    long = [text + "x" * 30_000 for text in ROWS]
    table = pa.table({"text": long}).replace_schema_metadata({"about": "a dictionary of words"})
    path = write_table(tmp_path / "x.stream.arrow", table, group=3)
    state = after(DocumentFileIterator(path), 7)
    content = path.read_bytes()
    path.write_bytes(content[: 1 << 16] + b"\xff" * (state.offset - (1 << 16)) + content[state.offset :])
    assert [d.text for d in drain(state.build())] == long[7:]


@pytest.mark.parametrize("kind", ["list", "extension"])
def test_a_dictionary_within_another_type_resumes_exactly(tmp_path: Path, kind: str) -> None:
    if kind == "extension" and not hasattr(pa, "opaque"):
        pytest.skip("this pyarrow has no type that may be an extension of every type")
    words = pa.array([text[:4] for text in ROWS]).dictionary_encode()
    inner = pa.ListArray.from_arrays(pa.array(range(10), pa.int32()), words)
    column = inner if kind == "list" else pa.ExtensionArray.from_storage(pa.opaque(inner.type, "a", "b"), inner)
    path = write_table(tmp_path / "x.stream.arrow", pa.table({"other": column, "text": ROWS}), group=2)
    assert texts(path) == ROWS
    assert_resumes_exactly(lambda: DocumentFileIterator(path))
    assert_resumes_exactly(lambda: DocumentFileIterator(path, columns=("other",)))


@pytest.mark.parametrize("rows", range(1, 10))
def test_a_place_with_the_first_byte_of_a_batch_instead_of_its_number_goes_on(tmp_path: Path, rows: int) -> None:
    batches = [pa.record_batch({"text": pa.array(ROWS[a:b], pa.string())}) for a, b in ((0, 3), (3, 3), (3, 4), (4, 9))]
    path = tmp_path / "x.arrow"
    with pa.ipc.new_file(path, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    state = after(DocumentFileIterator(path), rows)
    data = json.loads(state.model_dump_json())
    assert data["fields"].pop("batch") == (0 if rows <= 3 else 2 if rows == 4 else 3)
    data["fields"]["offset"] = start_of_batch(path, state.batch)
    old = IteratorState.model_validate_json(json.dumps(data))
    iterator = old.build()
    assert [d.text for d in drain(iterator)] == ROWS[rows:]  # type: ignore[attr-defined, arg-type]
    if rows < 9:
        assert after(old.build(), 1) == after(state.build(), 1)  # type: ignore[arg-type]
    else:
        return
    data["fields"]["row"] = 20
    with pytest.raises(DocumentError, match="no record batch begins at the place in the checkpoint"):
        drain(IteratorState.model_validate_json(json.dumps(data)).build())  # type: ignore[arg-type]


def test_a_size_that_is_not_that_of_the_checkpoint_is_refused(tmp_path: Path) -> None:
    state = after(DocumentFileIterator(write(tmp_path / "x.arrow", [{"text": text} for text in ROWS])), 3)
    with pytest.raises(DocumentError, match="its size is not the 5 bytes that it had at the checkpoint"):
        drain(state.model_copy(update={"size": 5}).build())
