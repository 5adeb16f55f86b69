from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import register
from asyncprefetch.arrays import empty
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import BatchIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


@register("tests.batching.stacked")
def stacked(items: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    out = empty((len(items), *items[0].shape), items[0].dtype)
    return np.stack(items, out=out)


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), max_size=8), size=st.integers(1, 4), drop_last=st.booleans())
def test_yields_lists_of_items_and_resumes_exactly(items: list[int], size: int, drop_last: bool) -> None:
    batches = [items[i : i + size] for i in range(0, len(items), size)]
    expected = [batch for batch in batches if len(batch) == size or not drop_last]
    assert drain(BatchIterator(ListIterator(items), size, drop_last)) == expected
    assert_resumes_exactly(lambda: BatchIterator(ListIterator(items), size, drop_last))


def test_collates_and_resumes_exactly() -> None:
    def make() -> BatchIterator:
        return BatchIterator(ListIterator([np.full(2, i, np.int16) for i in range(5)]), 2, collate=stacked)

    assert [batch.tolist() for batch in drain(make())] == [[[0, 0], [1, 1]], [[2, 2], [3, 3]], [[4, 4]]]
    assert_resumes_exactly(make)


def test_at_a_yield_no_item_was_drawn_that_is_not_in_a_batch() -> None:
    iterator = BatchIterator(ListIterator([1, 2, 3, 4]), 2)
    next(iterator.create_iter())
    assert iterator.get_state().inner.position == 2  # type: ignore[attr-defined]


def test_a_batch_is_the_consumers_own_list() -> None:
    batches = BatchIterator(ListIterator([1, 2]), 1).create_iter()
    next(batches).append(7)
    assert next(batches) == [2]


@pytest.mark.parametrize("size", [0, -1, 1.5, None, 1 << 63])
def test_refuses_a_size_out_of_its_range(size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        BatchIterator(ListIterator([1]), size)


def test_refuses_a_collate_that_is_not_registered() -> None:
    with pytest.raises(TypeError, match=r"BatchIterator's collate: .*@asyncprefetch.register"):
        BatchIterator(ListIterator([1]), 1, collate=tuple)


def test_refuses_what_is_no_stateful_iterator() -> None:
    with pytest.raises(TypeError, match="BatchIterator's inner must be a StatefulIterator, not"):
        BatchIterator([1], 1)  # type: ignore[arg-type]


def test_all_but_the_position_of_its_items_is_configuration() -> None:
    saved = BatchIterator(ListIterator([1, 2]), 2)
    drain(saved)
    assert compare_configuration(saved.get_state(), BatchIterator(ListIterator([1, 2]), 2).get_state(), "it") == []
    given = BatchIterator(ListIterator([1, 2]), 3, True, stacked).get_state()
    lines = compare_configuration(saved.get_state(), given, "it")
    assert [line.partition(":")[0] for line in lines] == ["it.batch_size", "it.drop_last", "it.collate"]
