from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import Batch, IteratorState
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import PackingIterator
from asyncprefetch.iterators.text import packing
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


def arrays(lengths: list[int], dtype: Any = np.int64) -> list[Any]:
    ids = iter(range(1, sum(lengths) + 1))
    return [np.array([next(ids) for _ in range(length)], dtype) for length in lengths]


def pack(lengths: list[int], batch_size: int, sequence_length: int, pad_id: int = 0) -> PackingIterator:
    tokens = ListIterator(arrays(lengths))
    return PackingIterator(tokens, batch_size=batch_size, sequence_length=sequence_length, pad_id=pad_id)


shapes = st.tuples(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 3), st.integers(1, 4))


@settings(max_examples=60, deadline=None)
@given(shape=shapes)
def test_every_pair_of_neighbouring_tokens_is_an_input_and_its_target_exactly_once(
    shape: tuple[list[int], int, int],
) -> None:
    lengths, batch_size, sequence_length = shape
    batches = drain(pack(lengths, batch_size, sequence_length, pad_id=-7))
    stream = range(1, sum(lengths) + 1)
    pairs = [(x, y) for b in batches for x, y, real in zip(b.x.flat, b.y.flat, b.mask.flat, strict=True) if real]
    assert pairs == list(pairwise(stream))
    for batch in batches:
        assert batch.x.shape == batch.y.shape == batch.mask.shape == (batch_size, sequence_length)
        assert (batch.x.dtype, batch.y.dtype, batch.mask.dtype) == (np.int64, np.int64, np.bool_)
        assert set(batch.x[~batch.mask]) | set(batch.y[~batch.mask]) <= {-7}
        assert batch.mask.any()
    assert all(batch.mask.all() for batch in batches[:-1])


@settings(max_examples=40, deadline=None)
@given(shape=shapes, anchor_every=st.integers(0, 12))
def test_resumes_exactly_however_far_apart_its_anchors_lie(
    shape: tuple[list[int], int, int], anchor_every: int
) -> None:
    lengths, batch_size, sequence_length = shape
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ANCHOR_EVERY", anchor_every)
        assert_resumes_exactly(lambda: pack(lengths, batch_size, sequence_length))


def test_a_batch_looks_like_this() -> None:
    first, second = drain(pack([3, 1, 4], 2, 3))
    np.testing.assert_array_equal(first.x, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(first.y, [[2, 3, 4], [5, 6, 7]])
    np.testing.assert_array_equal(second.x, [[7, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(second.y, [[8, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(second.mask, [[True, False, False], [False, False, False]])


@pytest.mark.parametrize("lengths", [[], [0, 0], [1], [0, 1, 0]])
def test_a_stream_without_a_target_has_no_batch(lengths: list[int]) -> None:
    assert drain(pack(lengths, 1, 2)) == []
    assert_resumes_exactly(lambda: pack(lengths, 1, 2))


def test_the_arrays_of_a_batch_share_no_memory_and_nothing_writes_to_them_later() -> None:
    iterator = pack([5, 5, 5], 1, 4)
    batches, copies = [], []
    for batch in iterator.create_iter():
        assert not np.shares_memory(batch.x, batch.y)
        batches.append(batch)
        copies.append(batch.x.copy())
    for batch, copied in zip(batches, copies, strict=True):
        np.testing.assert_array_equal(batch.x, copied)


def test_its_state_holds_no_tokens_however_long_the_document() -> None:
    iterator = PackingIterator(ListIterator([np.arange(100_000)]), batch_size=1, sequence_length=10)
    batches = iterator.create_iter()
    for _ in range(9_000):
        next(batches)
    state = iterator.get_state()
    assert (state.inner.position, state.offset) == (0, 90_000)  # type: ignore[attr-defined]
    assert next(state.build().create_iter()).x[0, 0] == 90_000


def test_resuming_draws_no_more_than_the_tokens_between_two_anchors_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ANCHOR_EVERY", 16)
    iterator = pack([5] * 40, 1, 3)
    for _ in iterator.create_iter():
        assert iterator.get_state().offset <= 16 + 5 + 5


def test_empty_documents_are_not_drawn_again_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ANCHOR_EVERY", 16)
    iterator = pack([0] * 500 + [8], 1, 3)
    next(iterator.create_iter())
    assert iterator.get_state().inner.position >= 480  # type: ignore[attr-defined]


def test_the_state_of_the_documents_is_asked_for_now_and_then_not_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ANCHOR_EVERY", 100)
    source = ListIterator(arrays([5] * 100))
    monkeypatch.setattr("tests.iterators.sources.ListIterator", lambda *args: source)
    drain(PackingIterator(source, batch_size=1, sequence_length=3))
    assert source.asked == 1 + 5


def test_documents_of_several_dtypes_make_one_stream() -> None:
    parts = [np.array([200, 201], np.uint8), np.array([], np.int16), np.array([2**40, -7, 3]),
             np.array([65_535] * 5, np.uint16), np.array([1, 2, 3, 4], np.uint8)]  # fmt: skip
    whole = [token for part in parts for token in part.tolist()]

    def pack() -> PackingIterator:
        return PackingIterator(ListIterator(parts), batch_size=1, sequence_length=3)

    batches = drain(pack())
    assert [token for batch in batches for token in batch.x[batch.mask].tolist()] == whole[:-1]
    assert [token for batch in batches for token in batch.y[batch.mask].tolist()] == whole[1:]
    assert_resumes_exactly(pack)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.uint16, ">i8"])
def test_takes_integers_of_every_dtype(dtype: Any) -> None:
    iterator = PackingIterator(ListIterator(arrays([4], dtype)), batch_size=1, sequence_length=3)
    [batch] = drain(iterator)
    assert batch.x.dtype == np.int64
    np.testing.assert_array_equal(batch.y, [[2, 3, 4]])


@pytest.mark.parametrize(
    "item", [np.zeros(3), np.zeros((2, 2), np.int64), np.zeros(2, np.bool_), [1, 2], np.int64(3), None]
)
def test_refuses_items_that_are_no_1d_arrays_of_integers(item: Any) -> None:
    with pytest.raises(TypeError, match="takes 1-D arrays of integers, not"):
        drain(PackingIterator(ListIterator([item]), batch_size=1, sequence_length=2))


def test_refuses_tokens_that_would_become_negative() -> None:
    with pytest.raises(ValueError, match=r"takes tokens below 2\*\*63, but token 1 is 18446744073709551615"):
        drain(PackingIterator(ListIterator([np.array([1, 2**64 - 1], np.uint64)]), batch_size=1, sequence_length=2))


@pytest.mark.parametrize(("batch_size", "sequence_length"), [(0, 1), (1, 0), (-1, 1)])
def test_refuses_sizes_below_one(batch_size: int, sequence_length: int) -> None:
    with pytest.raises(ValueError, match=r"batch_size|sequence_length"):
        pack([1], batch_size, sequence_length)


@pytest.mark.parametrize("pad_id", [1 << 63, -(1 << 63) - 1])
def test_refuses_padding_that_no_batch_can_hold(pad_id: int) -> None:
    with pytest.raises(ValueError, match="pad_id"):
        pack([1], 1, 1, pad_id)


def test_refuses_to_resume_when_the_tokens_became_fewer() -> None:
    iterator = pack([9], 1, 3)
    batches = iterator.create_iter()
    next(batches)
    next(batches)
    state = iterator.get_state().model_copy(update={"inner": ListIterator(arrays([4])).get_state()})
    with pytest.raises(ValueError, match="ended 2 tokens before the position"):
        drain(IteratorState.model_validate_json(state.model_dump_json()).build())


def test_sizes_and_padding_are_configuration_and_the_offset_is_not() -> None:
    started = pack([9], 1, 3)
    next(started.create_iter())
    assert compare_configuration(started.get_state(), pack([9], 1, 3).get_state(), "it") == []
    lines = compare_configuration(started.get_state(), pack([9], 2, 4, 5).get_state(), "it")
    assert [line.partition(":")[0] for line in lines] == ["it.batch_size", "it.sequence_length", "it.pad_id"]


def test_yields_batches() -> None:
    assert all(type(batch) is Batch for batch in drain(pack([9], 1, 3)))


@settings(max_examples=30, deadline=None)
@given(shape=shapes)
def test_a_last_batch_that_is_not_full_can_be_left_out(shape: tuple[list[int], int, int]) -> None:
    lengths, batch_size, sequence_length = shape

    def make(drop_last: bool) -> PackingIterator:
        return PackingIterator(
            ListIterator(arrays(lengths)), batch_size=batch_size, sequence_length=sequence_length, drop_last=drop_last
        )

    full = [batch.x.tolist() for batch in drain(make(False)) if batch.mask.all()]
    assert [batch.x.tolist() for batch in drain(make(True))] == full
    assert_resumes_exactly(lambda: make(True))
