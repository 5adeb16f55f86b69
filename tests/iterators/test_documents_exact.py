"""Random corpora: at every position, state -> JSON -> build gives the same rest and the same next states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch.iterators import DocumentFileIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import compressed, parquet
from tests.iterators.corpora import FORMATS, LINES, lines_of, write, write_table
from tests.iterators.sources import drain

texts = st.text(max_size=5) | st.sampled_from(
    ["x" * 90, "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16")]
)
rows = st.fixed_dictionaries(
    {
        "text": texts | st.none(),  # None makes a bad row
        "sample_id": st.none() | st.integers(0, 9),
        "entropies": st.none() | st.lists(st.floats(0, 8, width=16), max_size=3),
        "n": st.integers(0, 9),
    }
)
files = st.tuples(st.sampled_from([*FORMATS, ".txt"]), st.lists(rows | st.none(), max_size=7), st.integers(1, 4))
SCHEMA = pa.schema({"text": pa.string(), "sample_id": pa.int64(), "entropies": pa.list_(pa.float64()), "n": pa.int64()})


def lay_down(folder: Path, number: int, suffix: str, content: list[Any], group: int) -> list[str]:
    """Write a file, in which ``None`` is a blank line. Return its texts without those of bad rows."""
    path = folder / f"{number}{suffix}"
    kept = [row for row in content if row is not None]
    if suffix == ".txt":
        path.write_text(str(number), "utf-8")
        return [str(number)]
    if suffix == ".jsonl":
        path.write_bytes(lines_of(content))
    elif suffix in LINES:
        write(path, kept, group)
    else:
        write_table(path, pa.Table.from_pylist(kept, SCHEMA), group)
    return [row["text"] for row in kept if row["text"] is not None]


@settings(max_examples=40)
@given(corpus=st.lists(files, min_size=1, max_size=4), count=st.integers(1, 4), chunk=st.integers(4, 300))
def test_random_corpora_resume_exactly_and_are_shared_out(
    tmp_path_factory: pytest.TempPathFactory, corpus: list[tuple[str, list[Any], int]], count: int, chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    expected = [text for number, file in enumerate(corpus) for text in lay_down(folder, number, *file)]
    columns = () if any(suffix == ".txt" for suffix, _, _ in corpus) else ("n",)

    def make(index: int = 0, count: int = 1) -> DocumentFileIterator:
        return DocumentFileIterator(folder, shard=(index, count), on_error="skip", columns=columns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "_CHUNK", chunk)
        patch.setattr(parquet, "_ROWS", 1 + chunk % 4)
        assert [d.text for d in drain(make())] == expected
        shards = [drain(make(index, count)) for index in range(count)]
        assert sorted(d.text for shard in shards for d in shard) == sorted(expected)
        for index in range(count):
            assert_resumes_exactly(lambda index=index: make(index, count))  # type: ignore[misc]
