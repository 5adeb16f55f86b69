"""Parquet and arrow files."""

from __future__ import annotations

import datetime
import decimal
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from asyncprefetch.iterators import Document, DocumentError, DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import counters, explain_unsupported, parquet
from tests.iterators.corpora import TABLES, after, ids, start_of_batch, write, write_table
from tests.iterators.sources import drain

ARROW = TABLES[1:]
TEXTS = [f"row {i} " + "x" * 9000 for i in range(40)]


def blank_out(path: Path, texts: list[str]) -> None:
    """Replace some texts in the file by invalid UTF-8."""
    content = path.read_bytes()
    for text in texts:
        assert content.count(text.encode()) == 1
        content = content.replace(text.encode(), b"\xff" * len(text))
    path.write_bytes(content)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 50])
def test_the_shards_of_a_parquet_file_are_even_and_lie_together(count: int) -> None:
    for before in range(0, 60, 7):
        for rows in (0, 1, 2, 5, 40):
            parts = [parquet.shard_of(before, rows, (i, count)) for i in range(count)]
            assert [n for first, stop in parts for n in range(first, stop)] == list(range(rows))
            for i, (first, stop) in enumerate(parts):
                assert stop - first == sum(n % count == i for n in range(before, before + rows))


def test_only_the_row_groups_with_rows_of_ours_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.parquet", [{"text": text} for text in TEXTS], group=5)
    groups: list[int] = []
    iter_batches = pq.ParquetFile.iter_batches

    def recording(self: Any, batch_size: int, row_groups: list[int], **kwargs: Any) -> Any:
        groups.extend(row_groups)
        return iter_batches(self, batch_size, row_groups=row_groups, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recording)
    read = {}
    for i in range(3):
        groups.clear()
        assert [d.text for d in drain(DocumentFileIterator(path, shard=(i, 3)))] == TEXTS[
            [0, 14, 27][i] : [14, 27, 40][i]
        ]
        read[i] = list(groups)
    assert read == {0: [0, 1, 2], 1: [2, 3, 4, 5], 2: [5, 6, 7]}
    state = after(DocumentFileIterator(path), 32)
    groups.clear()
    assert [d.text for d in drain(state.build())] == TEXTS[32:]
    assert groups == [6, 7]


def test_no_more_of_a_row_group_is_decoded_than_up_to_the_last_row_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "x.parquet", [{"text": text} for text in TEXTS], group=40)
    decoded = 0
    iter_batches = pq.ParquetFile.iter_batches

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal decoded
        for batch in iter_batches(*args, **kwargs):
            decoded += batch.num_rows
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counting)
    monkeypatch.setattr(parquet, "_ROWS", 3)
    assert len(drain(DocumentFileIterator(path, shard=(0, 4)))) == 10
    assert decoded == 12


def test_only_the_columns_that_are_used_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", [{"text": "a", "entropies": [1.0], "lang": "de", "image": "x" * 99, "sample_id": 5}])
    read: list[Any] = []
    iter_batches = pq.ParquetFile.iter_batches

    def recording(self: Any, *args: Any, columns: Any, **kwargs: Any) -> Any:
        read.append(columns)
        return iter_batches(self, *args, columns=columns, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recording)
    drain(DocumentFileIterator(tmp_path, columns=("lang",)))
    drain(DocumentFileIterator(tmp_path, entropies_field=None, id_field=None))
    assert read == [["text", "entropies", "lang", "sample_id"], ["text"]]


@pytest.mark.parametrize("suffix", ARROW)
def test_resuming_in_an_arrow_file_seeks_to_the_record_batch(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": text} for text in TEXTS], group=5)
    state = after(DocumentFileIterator(path), 33)
    assert (state.skip, state.row, state.document) == (3, 33, 33)
    content = path.read_bytes()
    start = start_of_batch(path, 6)
    assert (state.offset, state.batch) == ((start, 0) if "stream" in suffix else (0, 6))
    # The iterator does not even read the metadata of the batches before.
    path.write_bytes(content[: 1 << 16] + b"\xff" * (start - (1 << 16)) + content[start:])
    assert [d.text for d in drain(state.build())] == TEXTS[33:]


@pytest.mark.parametrize("suffix", ARROW)
def test_rows_of_an_arrow_file_that_belong_to_others_are_not_decoded(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": text} for text in TEXTS], group=5)
    blank_out(path, TEXTS[1::2])
    assert [d.text for d in drain(DocumentFileIterator(path, shard=(0, 2)))] == TEXTS[::2]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_compressed_tables_resume_exactly(tmp_path: Path, suffix: str, compression: str | None) -> None:
    rows = [{"text": f"row {i}", "entropies": [float(i)] * i} for i in range(11)]
    write(tmp_path / f"x{suffix}", rows, group=4, compression=compression)
    assert [d.text for d in drain(DocumentFileIterator(tmp_path))] == [row["text"] for row in rows]
    for shard in ((0, 1), (0, 3), (1, 3), (2, 3)):
        assert_resumes_exactly(lambda shard=shard: DocumentFileIterator(tmp_path, shard=shard))  # type: ignore[misc]


@pytest.mark.parametrize("suffix", TABLES)
def test_dictionaries_resume_exactly(tmp_path: Path, suffix: str) -> None:
    texts = [f"row {i % 3}" for i in range(9)] + [None]
    table = pa.table({"text": pa.array(texts).dictionary_encode(), "lang": pa.array(["de"] * 10).dictionary_encode()})
    write_table(tmp_path / f"x{suffix}", table, group=3)

    def make() -> DocumentFileIterator:
        return DocumentFileIterator(tmp_path, columns=("lang",), on_error="skip")

    assert [(d.text, d.columns) for d in drain(make())] == [(text, {"lang": "de"}) for text in texts[:9]]
    assert_resumes_exactly(make)


@pytest.mark.parametrize("suffix", ARROW)
def test_a_dictionary_may_hold_no_value(tmp_path: Path, suffix: str) -> None:
    names = pa.DictionaryArray.from_arrays(pa.array([1, 0]), pa.array(["a", None]))
    write_table(tmp_path / f"x{suffix}", pa.table({"text": ["a", "b"], "sample_id": names}))
    assert ids(DocumentFileIterator(tmp_path)) == [f"x{suffix}:0", "a"]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary()])
def test_texts_and_names_may_be_of_every_kind_of_string(tmp_path: Path, suffix: str, kind: pa.DataType) -> None:
    long = "länger als zwölf Zeichen"
    table = pa.table({"text": pa.array(["ä", long]).cast(kind), "sample_id": pa.array(["é", None]).cast(kind)})
    write_table(tmp_path / f"x{suffix}", table)
    assert drain(DocumentFileIterator(tmp_path)) == [Document("é", "ä"), Document(f"x{suffix}:1", long)]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (pa.list_(pa.float32()), np.float32),
        (pa.list_(pa.float64()), np.float64),
        (pa.large_list(pa.float16()), np.float16),
        (pa.list_(pa.int32()), np.float64),
        (pa.list_(pa.float32(), 2), np.float32),
    ],
)
def test_entropies_have_the_dtype_of_their_column_and_memory_of_their_own(
    tmp_path: Path, suffix: str, kind: pa.DataType, dtype: Any
) -> None:
    table = pa.table({"text": ["a", "b", "c"], "entropies": pa.array([[1, 2], None, [3, 4]], kind)})
    write_table(tmp_path / f"x{suffix}", table, group=3)
    documents = drain(DocumentFileIterator(tmp_path))
    assert [None if d.entropies is None else d.entropies.tolist() for d in documents] == [[1, 2], None, [3, 4]]
    for document in (documents[0], documents[2]):
        assert document.entropies.dtype == dtype
        assert document.entropies.flags.writeable
        assert document.entropies.flags.owndata
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path))


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("text", pa.array(["a", None]), "the field 'text' must be a string, not None"),
        ("text", pa.array([1, 2]), "the field 'text' must be a string, not 1"),
        ("sample_id", pa.array([1.5, None]), "the field 'sample_id' must be a string or an integer, not 1.5"),
        ("entropies", pa.array([[1.0], [float("nan")]]), "the field 'entropies' must be a list of finite numbers"),
        ("entropies", pa.array([[1.0], [None]]), "the field 'entropies' must be a list of finite numbers"),
        ("entropies", pa.array([["a"], []], pa.list_(pa.string())), "the field 'entropies' must be a list of finite"),
        ("entropies", pa.array([1.0, 2.0]), "the field 'entropies' must be a list of finite numbers"),
        ("entropies", pa.array([[[1.0]], []]), "the field 'entropies' must be a list of finite numbers"),
    ],
)
def test_a_bad_row_is_an_error_that_names_it_and_the_rest_resumes_at_it(
    tmp_path: Path, suffix: str, column: str, values: pa.Array, reason: str
) -> None:
    table = pa.table({"text": ["a", "b"]} | {column: values})
    path = write_table(tmp_path / f"x{suffix}", table, group=1)
    iterator = DocumentFileIterator(tmp_path)
    with pytest.raises(DocumentError, match=reason) as caught:
        drain(iterator)
    assert f"{path}, row {caught.value.row}: " in str(caught.value)
    assert (caught.value.file, iterator.get_state().row) == (f"x{suffix}", caught.value.row)
    with pytest.raises(DocumentError, match=reason):
        drain(iterator.get_state().build())
    assert_resumes_exactly(lambda: DocumentFileIterator(tmp_path, on_error="skip"))


VALUES = {
    "seconds": (pa.array([1], pa.timestamp("s")), datetime.datetime(1970, 1, 1, 0, 0, 1)),
    "zoned": (pa.array([0], pa.timestamp("us", "Etc/GMT-1")), datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
    "nanoseconds": (
        pa.array([1_700_000_000_123_456_789], pa.timestamp("ns")),
        np.datetime64(1_700_000_000_123_456_789, "ns"),
    ),
    "span": (pa.array([1], pa.duration("us")), datetime.timedelta(microseconds=1)),
    "short span": (pa.array([7], pa.duration("ns")), np.timedelta64(7, "ns")),
    "date": (pa.array([datetime.date(2024, 2, 29)]), datetime.date(2024, 2, 29)),
    "time": (pa.array([datetime.time(1, 2, 3)]), datetime.time(1, 2, 3)),
    "decimal": (pa.array([decimal.Decimal("1.50")]), decimal.Decimal("1.50")),
    "uuid": (pa.array([b"0" * 16], pa.uuid()), uuid.UUID(bytes=b"0" * 16)),
    "list": (pa.array([[datetime.date(2024, 2, 29)]]), [datetime.date(2024, 2, 29)]),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("suffix", TABLES)
def test_times_decimals_and_uuids_are_values_that_a_checkpoint_holds(tmp_path: Path, suffix: str, name: str) -> None:
    column, expected = VALUES[name]
    write_table(tmp_path / f"x{suffix}", pa.table({"text": ["a"], "value": column}))
    (document,) = drain(DocumentFileIterator(tmp_path, columns=("value",)))
    value = document.columns["value"]
    assert (type(value), value) == (type(expected), expected)
    assert explain_unsupported(document) is None


@pytest.mark.parametrize("suffix", TABLES)
def test_a_value_that_python_has_no_type_for_is_an_error_that_names_the_row(tmp_path: Path, suffix: str) -> None:
    times = pa.array([0, 1 << 62], pa.timestamp("us"))  # far beyond the year 9999
    write_table(tmp_path / f"x{suffix}", pa.table({"text": ["a", "b"], "when": times}))
    with pytest.raises(DocumentError, match="row 1: the column 'when' can't be read"):
        drain(DocumentFileIterator(tmp_path, columns=("when",)))
    assert len(drain(DocumentFileIterator(tmp_path, columns=("when",), on_error="skip"))) == 1


@pytest.mark.parametrize("suffix", TABLES)
def test_a_missing_column_is_an_error_that_names_the_file_and_what_there_is(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / f"x{suffix}", [{"body": "a", "n": 1}] * 3)
    write(tmp_path / "y.jsonl", [{"text": str(i), "lang": "de"} for i in range(4)])
    for columns in ((), ("lang",)):
        with pytest.raises(DocumentError, match=r"the column 'text'.* is missing; the table has 'body', 'n'") as caught:
            drain(DocumentFileIterator(tmp_path, columns=columns))
        assert (caught.value.file, caught.value.row) == (f"x{suffix}", None)
    shards = [[d.text for d in drain(DocumentFileIterator(tmp_path, on_error="skip", shard=(i, 2)))] for i in (0, 1)]
    assert sorted(shards) == [["0", "2"], ["1", "3"]]


@pytest.mark.parametrize("suffix", ARROW)
def test_bytes_that_are_no_utf8_are_an_error_that_names_the_row_or_are_replaced(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"x{suffix}", [{"text": f"text {i}", "lang": f"lang {i}"} for i in range(5)], group=5)
    blank_out(path, ["text 3"])
    with pytest.raises(DocumentError, match=r"row 3: not UTF-8 .*encoding_errors='replace'"):
        drain(DocumentFileIterator(tmp_path))
    documents = drain(DocumentFileIterator(tmp_path, encoding_errors="replace"))
    assert [d.text for d in documents] == ["text 0", "text 1", "text 2", "\ufffd" * 6, "text 4"]
    assert len(drain(DocumentFileIterator(tmp_path, on_error="skip"))) == 4
    blank_out(path, ["lang 1"])
    with pytest.raises(DocumentError, match=r"row 1: not UTF-8"):
        drain(DocumentFileIterator(tmp_path, columns=("lang",)))


@pytest.mark.parametrize("suffix", TABLES)
def test_binary_names_are_an_error_with_advice_that_helps(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"text": ["a", "b"], "sample_id": pa.array([b"\xff\x00", b"\xfe\x00"], pa.binary())})
    path = write_table(tmp_path / f"x{suffix}", table)
    with pytest.raises(DocumentError, match=r"row 0: the column 'sample_id' names the document, but .*id_field=None"):
        drain(DocumentFileIterator(path))
    assert ids(DocumentFileIterator(path, id_field=None)) == [f"x{suffix}:0", f"x{suffix}:1"]


@pytest.mark.parametrize("suffix", TABLES)
@pytest.mark.parametrize("damage", ["cut", "cut after a group", "no such file", "one group"])
def test_a_damaged_table_is_an_error_that_names_it_and_can_be_passed_over(
    tmp_path: Path, suffix: str, damage: str
) -> None:
    texts = [f"row {i} {i**9}" * 20 for i in range(12)]
    path = write(tmp_path / f"x{suffix}", [{"text": text} for text in texts], group=4, compression="zstd")
    write(tmp_path / "y.jsonl", [{"text": str(i)} for i in range(5)])
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "cut after a group":
        path.write_bytes(content[: second_group(path) if suffix == ".parquet" else start_of_batch(path, 1)])
    elif damage == "no such file":
        path.write_bytes(b"no such file" * 10)
    else:
        place = second_group(path)
        path.write_bytes(content[:place] + b"\xff" * 20 + content[place + 20 :])
    with pytest.raises(DocumentError, match=r"damaged|not a valid parquet file|not an arrow file") as caught:
        drain(DocumentFileIterator(tmp_path))
    assert caught.value.file == f"x{suffix}"
    counters.drain()
    whole = ids(DocumentFileIterator(tmp_path, on_error="skip"))
    assert counters.drain() == {"documents skipped": 1}
    assert whole[-5:] == [f"y.jsonl:{i}" for i in range(5)]
    halves = [ids(damaged(tmp_path, (i, 2))) for i in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(whole)
    for shard in ((0, 1), (0, 2), (1, 2)):
        assert_resumes_exactly(lambda shard=shard: damaged(tmp_path, shard))  # type: ignore[misc]


def damaged(folder: Path, shard: tuple[int, int]) -> DocumentFileIterator:
    return DocumentFileIterator(folder, on_error="skip", shard=shard)


def second_group(path: Path) -> int:
    """Return the offset of the data of the second row group or record batch."""
    if path.name.endswith(".parquet"):
        column = pq.ParquetFile(path).metadata.row_group(1).column(0)
        return int(column.dictionary_page_offset or column.data_page_offset)
    frame = b"\x28\xb5\x2f\xfd"  # the beginning of a zstd frame
    content = path.read_bytes()
    return content.index(frame, start_of_batch(path, 1))


def test_what_is_no_damage_is_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "x.parquet", [{"text": "a"}])

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionResetError("gone")

    for method in ("__init__", "iter_batches"):
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetFile, method, fail)
            with pytest.raises(ConnectionResetError):
                drain(DocumentFileIterator(tmp_path, on_error="skip"))


def test_rows_that_a_damaged_parquet_file_lacks_are_noticed(tmp_path: Path) -> None:
    table = pa.table({"text": [f"row {i}" for i in range(24)]})
    path = tmp_path / "x.parquet"
    pq.write_table(table, path, row_group_size=8, compression="none", use_dictionary=False)
    content, noticed = path.read_bytes(), 0
    for place in range(len(content)):
        if content[place]:
            path.write_bytes(content[:place] + b"\0" + content[place + 1 :])
            try:
                assert len(ids(DocumentFileIterator(path))) == 24
            except DocumentError as error:
                noticed += "rows that the file says" in str(error) or "its row groups" in str(error)
    assert noticed > 3


@pytest.mark.parametrize("group", [0, 1])
def test_the_rows_that_a_row_group_lacks_are_an_error_for_the_shards_that_have_them(
    tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "x.parquet", [{"text": f"row {i}"} for i in range(16)], group=8)
    write(tmp_path / "y.jsonl", [{"text": "y"}] * 5)
    iter_batches = pq.ParquetFile.iter_batches

    def lacking(self: Any, *args: Any, row_groups: list[int], **kwargs: Any) -> Any:
        batches = list(iter_batches(self, *args, row_groups=row_groups, **kwargs))
        yield from batches[:1] if row_groups == [group] else batches

    monkeypatch.setattr(parquet, "_ROWS", 3)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lacking)
    with pytest.raises(DocumentError, match=rf"row {8 * group + 3}: the rest of row group {group} .* the 8 rows that"):
        drain(DocumentFileIterator(tmp_path))
    whole = ids(DocumentFileIterator(tmp_path, on_error="skip"))
    assert len(whole) == 16
    for count in (2, 3):
        assert sorted(name for i in range(count) for name in ids(damaged(tmp_path, (i, count)))) == sorted(whole)
        for i in range(count):
            assert_resumes_exactly(lambda i=i, count=count: damaged(tmp_path, (i, count)))  # type: ignore[misc]


@pytest.mark.parametrize("suffix", TABLES)
def test_several_columns_of_one_name_are_an_error_if_they_are_used(tmp_path: Path, suffix: str) -> None:
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    path = write_table(tmp_path / f"x{suffix}", pa.table(columns, ["text", "n", "text"]))
    with pytest.raises(DocumentError, match="there are several columns 'text'"):
        drain(DocumentFileIterator(path))
    write_table(path, pa.table(columns, ["n", "text", "n"]))
    assert [d.text for d in drain(DocumentFileIterator(path))] == ["b"]
    with pytest.raises(DocumentError, match="there are several columns 'n'"):
        drain(DocumentFileIterator(path, columns=("n",)))


@pytest.mark.parametrize("suffix", TABLES)
def test_a_name_of_a_column_that_is_no_utf8_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    path = write_table(tmp_path / f"x{suffix}", pa.table({"text": ["a"], "besides": ["b"]}))
    path.write_bytes(path.read_bytes().replace(b"besides", b"\xff" * 7))
    with pytest.raises(DocumentError, match=r"not an arrow file|not a valid parquet file") as caught:
        drain(DocumentFileIterator(path))
    assert caught.value.file == f"x{suffix}"
