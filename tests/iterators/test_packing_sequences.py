"""Packing of sequences: each sequence becomes a row."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, Position, arrays
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import (
    ByteTokenizer,
    DocumentFileIterator,
    LoopingIterator,
    PackingIterator,
    PreprocessIterator,
    RowTooLongError,
    SequenceIterator,
    SpacePatcher,
    TokenSequence,
)
from asyncprefetch.iterators.text import packing
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import _blocks, counters
from tests.iterators.sources import ListIterator, ListState, drain

PAD = -7


def sequences(rows: list[list[int]], patched: bool, dtype: Any = np.uint16) -> list[TokenSequence]:
    """Return one sequence for each list of patch lengths. The tokens count from 1."""
    ids = iter(range(1, 10_000))
    made = []
    for lengths in rows:
        tokens = np.array([next(ids) for _ in range(sum(lengths))], dtype)
        made.append(TokenSequence(tokens, np.array(lengths, np.int64) if patched else None, "a.jsonl", len(made)))
    return made


def pack(rows: list[list[int]], patched: bool, **options: Any) -> PackingIterator:
    options = {"batch_size": 2, "sequence_length": 40, "pad_id": PAD, **options}
    return PackingIterator(ListIterator(sequences(rows, patched)), **options)


def model(rows: list[list[int]], patched: bool, **options: Any) -> list[dict[str, list[Any]]]:
    """Return the expected batches as plain lists."""
    batch_size, limit = options["batch_size"], options.get("max_length")
    first, kept = 1, []
    for lengths in rows:
        tokens = list(range(first, first + sum(lengths)))
        first += len(tokens)
        if len(tokens) < 2:
            continue
        split = lengths if lengths[0] == 1 else [1, lengths[0] - 1, *lengths[1:]]
        if patched and limit is not None and len(tokens) > limit + 1:
            tokens = tokens[: limit + 1]
            owners = [p for p, length in enumerate(split) for _ in range(length)][: limit + 1]
            split = [owners.count(p) for p in sorted(set(owners))]
        kept.append((tokens, split))
    batches = []
    for at in range(0, len(kept), batch_size):
        part = kept[at : at + batch_size]
        if len(part) < batch_size and options.get("drop_last"):
            continue
        width = options["sequence_length"]
        if patched:
            width = max(len(tokens) - 1 for tokens, _ in part)
            if options.get("pad_to_max_length"):
                width = limit
        batch: dict[str, list[Any]] = {"x": [], "y": [], "mask": [], "patch_lengths": []}
        for tokens, split in part + [([0], [1])] * (batch_size - len(part)):
            n = len(tokens) - 1
            batch["x"].append(tokens[:-1] + [PAD] * (width - n))
            batch["y"].append(tokens[1:] + [PAD] * (width - n))
            batch["mask"].append([True] * n + [False] * (width - n))
            batch["patch_lengths"].append(split + [0] * (options["sequence_length"] - len(split)))
        batches.append(batch)
    return batches


rows_ = st.lists(st.lists(st.integers(1, 4), max_size=6), max_size=7)
options_ = st.fixed_dictionaries(
    {
        "batch_size": st.integers(1, 3),
        "sequence_length": st.integers(24, 26),
        "max_length": st.none() | st.integers(1, 20),
        "drop_last": st.booleans(),
    }
)


@settings(max_examples=150, deadline=None)
@given(rows=rows_, patched=st.booleans(), options=options_, to_max=st.booleans())
def test_batches_are_what_plain_lists_give(
    rows: list[list[int]], patched: bool, options: dict[str, Any], to_max: bool
) -> None:
    if options["max_length"] is not None:
        options["pad_to_max_length"] = to_max
    batches = drain(pack(rows, patched, **options))
    expected = model(rows, patched, **options)
    assert len(batches) == len(expected)
    for batch, wanted in zip(batches, expected, strict=True):
        for name in ("x", "y", "mask"):
            assert getattr(batch, name).tolist() == wanted[name]
        assert (batch.x.dtype, batch.y.dtype, batch.mask.dtype) == (np.int64, np.int64, np.bool_)
        if patched:
            assert batch.patch_lengths.dtype == np.int64
            assert batch.patch_lengths.tolist() == wanted["patch_lengths"]
            assert (batch.patch_lengths.sum(axis=1) == batch.mask.sum(axis=1) + 1).all()
            assert (batch.patch_lengths[:, 0] == 1).all()
        else:
            assert batch.patch_lengths is None


@settings(max_examples=40, deadline=None)
@given(rows=rows_, patched=st.booleans(), options=options_)
def test_resumes_exactly(rows: list[list[int]], patched: bool, options: dict[str, Any]) -> None:
    assert_resumes_exactly(lambda: pack(rows, patched, ngram_sizes=(2, 3), **options))


def test_a_batch_with_patches_looks_like_this() -> None:
    first, second = drain(pack([[1, 2, 3], [2, 2], [1, 1]], True, sequence_length=4, max_length=4, pad_id=0))
    np.testing.assert_array_equal(first.x, [[1, 2, 3, 4], [7, 8, 9, 0]])
    np.testing.assert_array_equal(first.y, [[2, 3, 4, 5], [8, 9, 10, 0]])
    np.testing.assert_array_equal(first.mask, [[True] * 4, [True] * 3 + [False]])
    np.testing.assert_array_equal(first.patch_lengths, [[1, 2, 2, 0], [1, 1, 2, 0]])
    np.testing.assert_array_equal(second.x, [[11], [0]])
    np.testing.assert_array_equal(second.mask, [[True], [False]])
    np.testing.assert_array_equal(second.patch_lengths, [[1, 1, 0, 0], [1, 0, 0, 0]])


def test_rows_are_padded_to_the_maximum_if_asked() -> None:
    [batch] = drain(pack([[1, 2], [1, 1]], True, max_length=9, pad_to_max_length=True))
    assert batch.x.shape == batch.y.shape == batch.mask.shape == (2, 9)
    assert batch.mask.sum() == 3


def test_sequences_of_too_few_tokens_for_a_target_are_passed_over() -> None:
    [batch] = drain(pack([[], [1], [1, 1], [], [1, 2], [1]], True))
    assert batch.mask.sum(axis=1).tolist() == [1, 2]
    assert drain(pack([[], [1], []], True)) == []


def test_rows_of_full_length_take_the_dtypes_that_come() -> None:
    rows = [TokenSequence(np.arange(4, dtype=d)) for d in (np.uint64, np.int8, ">i4", np.uint16)]
    for batch in drain(PackingIterator(ListIterator(rows), batch_size=2, sequence_length=3)):
        np.testing.assert_array_equal(batch.y, [[1, 2, 3], [1, 2, 3]])
        assert batch.mask.all()


@pytest.mark.parametrize(
    ("patched", "rows", "options", "what"),
    [
        (False, [[5], [5]], {"sequence_length": 3}, "row 0 (line 1) has 4 targets, but sequence_length is 3"),
        (False, [[2], [5]], {"sequence_length": 3}, "row 1 (line 2) has 4 targets, but sequence_length is 3"),
        (True, [[1, 1], [1] * 5], {"sequence_length": 4}, "row 1 (line 2) has 5 patches, but sequence_length is 4"),
        (True, [[2, 1, 1]], {"sequence_length": 3}, "row 0 (line 1) has 4 patches, but sequence_length is 3"),
        (
            True,
            [[1, 9]],
            {"max_length": 8, "on_too_long": "raise"},
            "row 0 (line 1) has 9 inputs, but max_length is 8",
        ),
    ],
)
def test_a_sequence_that_is_too_long_is_an_error_that_names_its_file_and_row(
    patched: bool, rows: list[list[int]], options: dict[str, Any], what: str
) -> None:
    iterator = pack(rows, patched, **options)
    with pytest.raises(RowTooLongError) as caught:
        drain(iterator)
    assert str(caught.value) == f"the sequence that begins in a.jsonl, {what}"
    row, _, length, limit = (int(digits) for digits in re.findall(r"\d+", what))
    crossed = pickle.loads(pickle.dumps(caught.value))
    for error in (caught.value, crossed):
        assert (error.file, error.row, error.length, error.limit) == ("a.jsonl", row, length, limit)
    assert str(crossed) == str(caught.value)


def test_a_sequence_from_nowhere_that_is_too_long_is_an_error_too() -> None:
    with pytest.raises(RowTooLongError, match=r"^the sequence has 4 targets, but sequence_length is 3$") as caught:
        drain(PackingIterator(ListIterator([TokenSequence(np.arange(5))]), batch_size=1, sequence_length=3))
    assert (caught.value.file, caught.value.row) == ("", None)


@pytest.mark.parametrize("options", [{"sequence_length": 3}, {"max_length": 4, "sequence_length": 9}])
def test_sequences_that_are_too_long_can_be_passed_over_counted_and_the_rest_resumes_exactly(
    options: dict[str, Any],
) -> None:
    rows = [[1, 1, 1], [1] * 6, [1, 2], [3, 2, 2, 2], [1], [2, 1], [7, 2, 3, 2]]

    def skipping() -> PackingIterator:
        return pack(rows, True, on_too_long="skip", **options)

    counters.drain()
    batches = drain(skipping())
    assert counters.drain() == {"sequences skipped": 3}
    kept = [row.tokens[:-1].tolist() for i, row in enumerate(sequences(rows, True)) if i in (0, 2, 5)]
    got = [x[mask].tolist() for batch in batches for x, mask in zip(batch.x, batch.mask, strict=True) if mask.any()]
    assert got == kept
    assert_resumes_exactly(skipping)


def test_after_a_row_that_is_too_long_an_iterator_gives_no_state_and_draws_nothing_more() -> None:
    iterator = pack([[3], [50], *[[3]] * 20], False)
    with pytest.raises(RowTooLongError):
        drain(iterator)
    with pytest.raises(RuntimeError, match="a state that was taken before"):
        iterator.get_state()
    with pytest.raises(RuntimeError, match="a state that was taken before"):
        next(iterator.create_iter())
    assert iterator._sequences is not None
    assert iterator._sequences.position == 2  # type: ignore[attr-defined]


def test_what_is_cut_off_is_counted_and_may_be_what_made_a_row_fit() -> None:
    counters.drain()
    [batch] = drain(pack([[1] * 9], True, sequence_length=4, max_length=3))
    assert batch.patch_lengths is not None
    assert batch.patch_lengths[0].tolist() == [1] * 4
    assert counters.drain() == {"targets cut off": 5}


def test_a_row_of_exactly_the_maximum_is_not_too_long() -> None:
    [batch] = drain(pack([[1, 8]], True, max_length=8, on_too_long="raise"))
    assert batch.mask[0].all()


def test_max_length_is_for_patches_only() -> None:
    [batch] = drain(pack([[9]], False, sequence_length=8, max_length=2))
    assert batch.mask[0].all()


@pytest.mark.parametrize("swapped", [False, True])
def test_refuses_arrays_among_sequences(swapped: bool) -> None:
    both: list[Any] = [np.arange(3), TokenSequence(np.arange(3))]
    with pytest.raises(TypeError, match="some items are arrays of tokens and others are sequences"):
        drain(PackingIterator(ListIterator(both[::-1] if swapped else both), batch_size=2, sequence_length=4))


def test_a_stream_that_gives_sequences_when_it_is_resumed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ANCHOR_EVERY", 4)
    packed = PackingIterator(ListIterator([np.arange(4), np.arange(4)]), batch_size=1, sequence_length=4)
    next(packed.create_iter())
    state = packed.get_state()
    assert state.witness
    assert (state.inner.position, state.offset) == (1, 0)  # type: ignore[attr-defined]
    changed = ListState(items=[np.arange(4), TokenSequence(np.arange(4))], position=1)
    with pytest.raises(TypeError, match="must be of one kind"):
        drain(state.model_copy(update={"inner": changed}).build())


def test_refuses_sequences_with_patches_among_others() -> None:
    both = sequences([[2]], True) + sequences([[2]], False)
    with pytest.raises(ValueError, match="some sequences have patch lengths and others have none"):
        drain(PackingIterator(ListIterator(both), batch_size=2, sequence_length=4))


@pytest.mark.parametrize("patched", [True, False])
@pytest.mark.parametrize("first", [[1, 1], [1]])  # in the second case the first sequence is too short for a row
def test_refuses_sequences_of_another_kind_after_a_batch(patched: bool, first: list[int]) -> None:
    rows = [*sequences([first, [1, 1]], patched), *sequences([[1, 1]], not patched)]
    iterator = PackingIterator(ListIterator(rows), batch_size=1, sequence_length=4)
    batches = iterator.create_iter()
    for _ in range(len(first)):
        next(batches)
    text = iterator.get_state().model_dump_json()
    for rest in (batches, IteratorState.model_validate_json(text).build().create_iter()):
        with pytest.raises(ValueError, match="must be of one kind"):
            next(rest)


def test_refuses_patch_lengths_that_do_not_fit() -> None:
    wrong = TokenSequence(np.arange(3), np.array([1, 1]))
    with pytest.raises(ValueError, match="sum to 2, but there are 3 tokens"):
        drain(PackingIterator(ListIterator([wrong]), batch_size=1, sequence_length=4))


@pytest.mark.parametrize(
    "option",
    [
        {"max_length": 0},
        {"on_too_long": "split"},
        {"ngram_sizes": (0,)},
        {"ngram_table_size": 0},
        {"ngram_table_size": (1 << 63) + 1},
        {"pad_to_max_length": True},
    ],
)
def test_refuses_options_out_of_their_range(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        pack([], True, **option)


def test_the_state_after_a_batch_is_only_that_of_the_sequences() -> None:
    iterator = pack([[1, 1]] * 9, True)
    batches = iterator.create_iter()
    for number in range(1, 5):
        next(batches)
        state = iterator.get_state()
        assert (state.inner.position, state.offset) == (2 * number, 0)  # type: ignore[attr-defined]


class SkippingState(IteratorState, kind="tests.packing.skipping", frozen=True):
    items: list[Any]
    position: Position[int] = 0

    def build(self) -> SkippingIterator:
        return SkippingIterator(self.items, self.position)


class SkippingIterator(ListIterator):
    """Skips each ``None``, so that its state changes at the end."""

    def get_state(self) -> SkippingState:  # type: ignore[override]
        return SkippingState(items=self.items, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        return (item for item in super().create_iter() if item is not None)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_resumes_exactly_where_the_sequences_change_their_state_at_the_end(batch_size: int, drop_last: bool) -> None:
    items = [None, *sequences([[1, 1]] * 2, True), None, *sequences([[1, 1]] * 2, True), None, None]

    def make() -> PackingIterator:
        source = SkippingIterator(items)
        return PackingIterator(source, batch_size=batch_size, sequence_length=4, drop_last=drop_last)

    assert_resumes_exactly(make)


def test_a_state_of_sequences_does_not_go_on_with_arrays() -> None:
    iterator = pack([[1, 1]] * 3, True, batch_size=1)
    next(iterator.create_iter())
    changed = ListIterator([np.arange(9)]).get_state()
    state = iterator.get_state().model_copy(update={"inner": changed})
    with pytest.raises(TypeError, match="some items are arrays"):
        drain(IteratorState.model_validate_json(state.model_dump_json()).build())


def test_no_state_is_given_of_a_batch_that_failed_when_it_was_half_drawn() -> None:
    source: list[Any] = [*sequences([[1, 1]] * 3, True), None]
    iterator = PackingIterator(ListIterator(source), batch_size=2, sequence_length=4)
    batches = iterator.create_iter()
    next(batches)
    state = iterator.get_state()
    with pytest.raises(TypeError):
        next(batches)
    with pytest.raises(RuntimeError, match="failed within a batch"):
        iterator.get_state()
    assert state.inner.position == 2  # type: ignore[attr-defined]


class InterruptedState(ListState, kind="tests.iterators.interrupted", frozen=True):
    def build(self) -> ListIterator:
        return Interrupted(self.items, self.position)


class Interrupted(ListIterator):
    """Yields its items, and raises those that are errors."""

    def get_state(self) -> InterruptedState:
        return InterruptedState(items=self.items, position=self.position)

    def create_iter(self) -> Iterator[Any]:
        for item in super().create_iter():
            if isinstance(item, BaseException):
                raise item
            yield item


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_no_state_is_given_of_a_batch_in_which_the_program_was_interrupted(error: BaseException) -> None:
    rows: list[Any] = sequences([[1, 1]] * 6, True)
    rows.insert(3, error)  # in place of the fourth sequence
    iterator = PackingIterator(Interrupted(rows), batch_size=2, sequence_length=4)
    batches = iterator.create_iter()
    next(batches)
    with pytest.raises(type(error)):
        next(batches)
    with pytest.raises(RuntimeError, match="failed within a batch"):
        iterator.get_state()


def test_an_iterator_that_is_closed_between_two_batches_has_not_failed() -> None:
    iterator = pack([[1, 1]] * 5, True, batch_size=2)
    batches: Any = iterator.create_iter()
    next(batches)
    batches.close()
    assert iterator.get_state().inner.position == 2  # type: ignore[attr-defined]
    assert len(drain(iterator)) == 2


def test_a_state_of_arrays_does_not_go_on_with_sequences() -> None:
    iterator = PackingIterator(ListIterator([np.arange(9)]), batch_size=1, sequence_length=4)
    next(iterator.create_iter())
    changed = ListIterator(sequences([[9]], False)).get_state()
    state = iterator.get_state().model_copy(update={"inner": changed})
    with pytest.raises(TypeError, match="some items are arrays"):
        drain(IteratorState.model_validate_json(state.model_dump_json()).build())


def test_all_arrays_are_made_where_the_loader_reads_them() -> None:
    made: list[Any] = []

    class Allocator:
        def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: str) -> Any:
            made.append(np.full(shape, 99, dtype))  # a batch must not contain this earlier content
            return made[-1]

    before = arrays.use(Allocator())
    try:
        batches = drain(pack([[1, 2], [1, 3], [1, 1]], True, max_length=5, pad_to_max_length=True, ngram_sizes=(2,)))
        batches += drain(pack([[3], [2], [2]], False, sequence_length=2))
        batches += drain(PackingIterator(ListIterator([np.arange(1, 6)]), batch_size=2, sequence_length=3))
    finally:
        arrays.use(before)
    for batch in batches:
        for array in (batch.x, batch.y, batch.mask, batch.patch_lengths, batch.ngram_ids):
            assert array is None or (any(array is one for one in made) and not (array == 99).any())


def test_all_configuration_is_compared() -> None:
    given = pack([], True).get_state()
    other = pack(
        [],
        True,
        max_length=3,
        pad_to_max_length=True,
        on_too_long="raise",
        drop_last=True,
        ngram_sizes=(2,),
        ngram_table_size=9,
    ).get_state()
    lines = compare_configuration(given, other, "it")
    assert [line.partition(":")[0] for line in lines] == [
        "it.max_length",
        "it.pad_to_max_length",
        "it.on_too_long",
        "it.drop_last",
        "it.ngram_sizes",
        "it.ngram_table_size",
    ]


words = st.text(alphabet="ab é.1\n", max_size=20)


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(words, max_size=5),
    patcher=st.sampled_from([None, SpacePatcher()]),
    length=st.integers(2, 6),
    buffer_size=st.integers(1, 3),
    max_length=st.none() | st.integers(1, 20),
)
def test_the_chain_from_text_resumes_exactly(
    texts: list[str], patcher: SpacePatcher | None, length: int, buffer_size: int, max_length: int | None
) -> None:
    def make() -> PackingIterator:
        tokens = PreprocessIterator(ListIterator(texts), ByteTokenizer(), patcher)
        mixed = SequenceIterator(tokens, sequence_length=length, buffer_size=buffer_size, seed=1)
        return PackingIterator(mixed, batch_size=2, sequence_length=length, max_length=max_length, ngram_sizes=(3,))

    targets = sum(int(batch.mask.sum()) for batch in drain(make()))
    stream = sum(len(text.encode()) + 2 for text in texts)
    if patcher is None or max_length is None:
        assert targets == max(0, stream - 1)
    assert_resumes_exactly(make, max_items=8)


def test_the_chain_from_files_resumes_exactly_in_every_epoch(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha beta " * 5, "utf-8")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": "b c" * n}) + "\n" for n in range(5)), "utf-8")

    def make() -> PackingIterator:
        documents = LoopingIterator(DocumentFileIterator(tmp_path), epochs=2)
        tokens = PreprocessIterator(documents, ByteTokenizer(), SpacePatcher())
        shuffled = SequenceIterator(tokens, sequence_length=5, buffer_size=3, seed=7)
        return PackingIterator(shuffled, batch_size=2, sequence_length=5, max_length=16, pad_to_max_length=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_blocks, "ANCHOR_EVERY", 20)
        assert_resumes_exactly(make)
