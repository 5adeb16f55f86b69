"""Files that were rewritten at the same size after the checkpoint: a resume that reads them again must notice."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asyncprefetch import IteratorState, StatefulIterator
from asyncprefetch.iterators import (
    DocumentError,
    DocumentFileIterator,
    LimitIterator,
    LoopingIterator,
    PackingIterator,
    PreprocessIterator,
    SamplingIterator,
    SequenceIterator,
    ShuffleIterator,
    SpacePatcher,
)
from asyncprefetch.iterators.text import packing
from asyncprefetch.testing import assert_items_equal, assert_resumes_exactly
from tests.inside import ANCHOR_EVERY, _blocks, position_digest
from tests.iterators.sources import ListIterator, ListState, drain

ROWS = 300


def write_rows(path: Path, letter: str) -> None:
    rows = (json.dumps({"text": letter * (3 + i % 20) + " " + letter * 5}) + "\n" for i in range(ROWS))
    path.write_text("".join(rows), "utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "corpus").mkdir()
    for name in ("a", "b"):
        write_rows(tmp_path / "corpus" / f"{name}.jsonl", name)
    return tmp_path / "corpus"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for i in range(20):
        (tmp_path / "texts" / f"{i:02}.txt").write_text(f"text {i:02} " * 5, "utf-8")
    return tmp_path / "texts"


def packed(folder: Path) -> StatefulIterator[Any]:
    return PackingIterator(PreprocessIterator(DocumentFileIterator(folder)), batch_size=2, sequence_length=16)


def sequenced(folder: Path) -> StatefulIterator[Any]:
    tokens = PreprocessIterator(DocumentFileIterator(folder))
    return SequenceIterator(tokens, sequence_length=16, buffer_size=8, seed=1)


def in_patches(folder: Path) -> StatefulIterator[Any]:
    tokens = PreprocessIterator(DocumentFileIterator(folder), patcher=SpacePatcher())
    return SequenceIterator(tokens, sequence_length=4, buffer_size=8, seed=1)


def shuffled(folder: Path) -> StatefulIterator[Any]:
    return ShuffleIterator(DocumentFileIterator(folder), buffer_size=11, seed=1)


def twice_shuffled(folder: Path) -> StatefulIterator[Any]:
    return ShuffleIterator(shuffled(folder), buffer_size=7, seed=2)


def of_sequences(folder: Path) -> StatefulIterator[Any]:
    return PackingIterator(sequenced(folder), batch_size=2, sequence_length=16)


def chained(folder: Path) -> StatefulIterator[Any]:
    def source(path: Path) -> SequenceIterator:
        tokens = PreprocessIterator(LoopingIterator(DocumentFileIterator(path)), patcher=SpacePatcher())
        return SequenceIterator(tokens, sequence_length=8, buffer_size=4, seed=7)

    sources = {path.name: source(path) for path in sorted(folder.iterdir())[:2]}
    mixture = SamplingIterator(sources, weights=dict.fromkeys(sources, 1.0), seed=7, on_exhausted="drop")
    return LimitIterator(PackingIterator(mixture, batch_size=3, sequence_length=8), 200)


CHAINS = [packed, sequenced, in_patches, shuffled, twice_shuffled, of_sequences, chained]


def saved_at(iterator: StatefulIterator[Any], position: int) -> str:
    assert len(list(islice(iterator.create_iter(), position))) == position
    return iterator.get_state().model_dump_json()


def resumed(text: str) -> list[Any]:
    return drain(IteratorState.model_validate_json(text).build())


@pytest.mark.parametrize("make", CHAINS)
@pytest.mark.parametrize("position", [1, 2, 7, 8, 20, 33, 63])
def test_a_file_that_was_rewritten_at_its_size_is_noticed(
    folder: Path, make: Callable[[Path], StatefulIterator[Any]], position: int
) -> None:
    rest = drain(make(folder))[position:]
    text = saved_at(make(folder), position)
    assert_items_equal(rest, resumed(text), "rest")
    for name in ("a", "b"):
        write_rows(folder / f"{name}.jsonl", "x")
    with pytest.raises(DocumentError, match=r"not what it was|first bytes differ"):
        next(IteratorState.model_validate_json(text).build().create_iter())


@pytest.mark.parametrize("make", [packed, sequenced, in_patches, shuffled, twice_shuffled, of_sequences])
def test_each_text_file_that_is_read_again_is_looked_at(
    texts: Path, make: Callable[[Path], StatefulIterator[Any]]
) -> None:
    text = saved_at(make(texts), 3)
    again = texts / "01.txt"  # in the middle of the files that the resume reads again
    before = again.read_bytes()
    assert_items_equal(drain(make(texts))[3:], resumed(text), "rest")
    again.write_bytes(before.upper())
    with pytest.raises(DocumentError, match="not what it was"):
        resumed(text)


def test_a_file_that_ends_within_what_is_read_again_is_looked_at(folder: Path) -> None:
    iterator = ShuffleIterator(DocumentFileIterator(folder), buffer_size=ROWS + 10)
    text = saved_at(iterator, 1)
    write_rows(folder / "a.jsonl", "x")
    with pytest.raises(DocumentError, match="not what it was"):
        resumed(text)


def test_text_files_that_are_not_read_again_may_change(texts: Path) -> None:
    documents = DocumentFileIterator(texts)
    rest = drain(documents)[2:]
    text = saved_at(DocumentFileIterator(texts), 2)
    (texts / "01.txt").write_bytes((texts / "01.txt").read_bytes().upper())
    assert resumed(text) == rest


@pytest.mark.parametrize("make", CHAINS)
def test_files_may_move(folder: Path, make: Callable[[Path], StatefulIterator[Any]]) -> None:
    rest = drain(make(folder))[7:]
    text = saved_at(make(folder), 7)
    moved = folder.rename(folder.with_name("moved"))
    assert_items_equal(rest, resumed(text.replace(str(folder), str(moved))), "rest")


@pytest.mark.parametrize("make", CHAINS)
def test_a_state_without_a_position_digest_is_continued(
    folder: Path, make: Callable[[Path], StatefulIterator[Any]]
) -> None:
    def without(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: without(value) for name, value in node.items() if name not in ("witness", "trail")}
        return [without(value) for value in node] if isinstance(node, list) else node

    rest = drain(make(folder))[7:]
    text = saved_at(make(folder), 7)
    assert "witness" in text
    assert_items_equal(rest, resumed(json.dumps(without(json.loads(text)))), "rest")


@pytest.mark.parametrize("make", CHAINS)
def test_states_are_the_same_with_and_without_a_resume(
    folder: Path, make: Callable[[Path], StatefulIterator[Any]]
) -> None:
    assert_resumes_exactly(lambda: make(folder), max_items=25)


@pytest.mark.parametrize("make", [packed, sequenced, in_patches, shuffled, twice_shuffled, of_sequences])
@pytest.mark.parametrize("anchor_every", [0, 100, ANCHOR_EVERY])
def test_states_of_text_files_are_the_same_with_and_without_a_resume(
    texts: Path, make: Callable[[Path], StatefulIterator[Any]], anchor_every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (packing, _blocks):
        monkeypatch.setattr(module, "ANCHOR_EVERY", anchor_every)
    assert_resumes_exactly(lambda: make(texts))


def test_the_state_after_a_failure_can_be_resumed(folder: Path) -> None:
    path = folder / "b.jsonl"
    path.write_text(path.read_text("utf-8").replace('{"text"', '["text"', 1), "utf-8")
    for make in CHAINS[:5]:
        iterator, got = make(folder), list[Any]()
        with pytest.raises(DocumentError, match="row 0"):
            got.extend(iterator.create_iter())  # extend() keeps the items before the error
        text = iterator.get_state().model_dump_json()
        write_rows(path, "b")
        assert_items_equal(drain(make(folder)), got + resumed(text), "items")
        path.write_text(path.read_text("utf-8").replace('{"text"', '["text"', 1), "utf-8")


def test_a_digest_is_of_positions_alone() -> None:
    numbers = ListIterator([np.array([1, 2])] * 9)
    list(islice(numbers.create_iter(), 3))
    state = numbers.get_state()
    assert position_digest(state) == position_digest(ListState(items=[4], position=3))
    assert position_digest(state) != position_digest(ListState(items=[4], position=4))
    nested = LoopingIterator(numbers).get_state()
    assert position_digest(nested) == position_digest(nested.model_copy(update={"epochs": 3}))
    assert position_digest(nested) != position_digest(nested.model_copy(update={"items": 3}))
