"""The counts of iterators are exact on resume: items that a resume draws again are not counted again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncprefetch import IteratorState
from asyncprefetch.iterators import (
    DocumentFileIterator,
    PackingIterator,
    PreprocessIterator,
    SequenceIterator,
    ShuffleIterator,
    SpacePatcher,
)
from tests.inside import counters

BAD = 7


@pytest.fixture
def documents(tmp_path: Path) -> DocumentFileIterator:
    rows = [b"{broken" if n % 9 in (0, 4) else b'{"text": "document %d, and no more"}' % n for n in range(30)]
    (tmp_path / "x.jsonl").write_bytes(b"\n".join(rows) + b"\n")
    return DocumentFileIterator(tmp_path, on_error="skip")


def tokens(documents: Any) -> Any:
    return PackingIterator(PreprocessIterator(documents), batch_size=2, sequence_length=20)


def patches(documents: Any) -> Any:
    inner = PreprocessIterator(documents, patcher=SpacePatcher())
    return SequenceIterator(inner, sequence_length=4, buffer_size=4, seed=3)


def shuffled(documents: Any) -> Any:
    return ShuffleIterator(documents, buffer_size=6)


def nested(documents: Any) -> Any:
    return PackingIterator(
        SequenceIterator(PreprocessIterator(shuffled(documents)), sequence_length=12, buffer_size=3),
        batch_size=2,
        sequence_length=12,
    )


def counted_of(items: Any, count: int | None = None) -> tuple[int, Counter[str]]:
    """Draw up to ``count`` items. Return how many there were, and the counts of the iterators."""
    n = 0
    counters.drain()
    if count != 0:
        for n, _ in enumerate(items, 1):
            if n == count:
                break
    return n, Counter(counters.drain())


@pytest.mark.parametrize("make", [tokens, patches, shuffled, nested])
def test_the_counts_before_and_after_a_resume_are_those_of_one_run(documents: DocumentFileIterator, make: Any) -> None:
    total, once = counted_of(make(documents).create_iter())
    assert once == {"documents skipped": BAD}
    for taken in range(total + 1):
        iterator = make(documents)
        _, before = counted_of(iterator.create_iter(), taken)
        state = type(iterator.get_state()).model_validate(iterator.get_state().model_dump())
        assert isinstance(state, IteratorState)
        _, after = counted_of(state.build().create_iter())
        assert before + after == once, taken


def test_a_resume_that_fails_counts_again_from_then_on(documents: DocumentFileIterator, tmp_path: Path) -> None:
    iterator = tokens(documents)
    counted_of(iterator.create_iter(), 3)
    state = iterator.get_state()
    (tmp_path / "x.jsonl").write_bytes((tmp_path / "x.jsonl").read_bytes().replace(b"document", b"DOCUMENT"))
    with pytest.raises(ValueError, match="not what it was"):
        list(state.build().create_iter())
    counters.add("anything", 2)
    assert counters.drain() == {"anything": 2}
