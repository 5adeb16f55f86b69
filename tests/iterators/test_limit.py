from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import CheckpointError, IteratorState
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import LimitIterator, LimitState, LoopingIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), max_size=5), n=st.integers(0, 7))
def test_yields_the_first_items_and_resumes_exactly(items: list[int], n: int) -> None:
    assert drain(LimitIterator(ListIterator(items), n)) == items[:n]
    assert_resumes_exactly(lambda: LimitIterator(ListIterator(items), n))


def test_draws_no_item_after_the_last_that_it_yields() -> None:
    iterator = LimitIterator(ListIterator([1, 2, 3]), 2)
    drain(iterator)
    assert iterator.get_state().inner.position == 2  # type: ignore[attr-defined]


def test_counts_over_all_its_iterators() -> None:
    iterator = LimitIterator(ListIterator([1, 2, 3, 4]), 3)
    assert next(iterator.create_iter()) == 1
    assert drain(iterator) == [2, 3]
    assert drain(iterator) == []


def test_ends_an_endless_loop() -> None:
    assert drain(LimitIterator(LoopingIterator(ListIterator([1, 2])), 5)) == [1, 2, 1, 2, 1]


def test_counts_from_zero_in_each_epoch() -> None:
    assert drain(LoopingIterator(LimitIterator(ListIterator([1, 2, 3]), 2), 2)) == [1, 2, 1, 2]


@pytest.mark.parametrize("n", [-1, 1 << 63, 0.5, "many", None])
def test_refuses_what_is_no_number_of_items(n: Any) -> None:
    with pytest.raises(ValueError, match=r"LimitIterator\nn\n"):
        LimitIterator(ListIterator([1]), n)


@pytest.mark.parametrize("inner", [[1, 2], None, ListIterator])
def test_refuses_what_is_no_stateful_iterator(inner: Any) -> None:
    with pytest.raises(
        TypeError, match=r"LimitIterator's inner must be a StatefulIterator, not .*from_iterable makes one"
    ):
        LimitIterator(inner, 1)


def test_the_limit_is_configuration_and_the_count_is_not() -> None:
    started = LimitIterator(ListIterator([1, 2]), 2)
    next(started.create_iter())
    assert compare_configuration(started.get_state(), LimitIterator(ListIterator([1, 2]), 2).get_state(), "it") == []
    lines = compare_configuration(started.get_state(), LimitIterator(ListIterator([1, 2]), 3).get_state(), "it")
    assert lines == ["it.n: saved 2, given 3"]


def test_a_state_with_more_items_than_the_limit_is_refused() -> None:
    text = LimitIterator(ListIterator([1, 2]), 1).get_state().model_dump_json().replace('"yielded":0', '"yielded":2')
    with pytest.raises(CheckpointError, match="2 items were yielded, and the limit is 1"):
        IteratorState.model_validate_json(text)


def test_the_state_class_has_its_name() -> None:
    assert LimitState is LimitIterator.State
