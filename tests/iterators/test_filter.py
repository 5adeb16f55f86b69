from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import FilterIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


@register("tests.filter.even")
def even(item: int) -> bool:
    return item % 2 == 0


@register("tests.filter.above")
def above(bound: int, item: int) -> bool:
    return item > bound


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), max_size=6))
def test_yields_what_the_predicate_lets_pass_and_resumes_exactly(items: list[int]) -> None:
    assert drain(FilterIterator(ListIterator(items), even)) == [item for item in items if item % 2 == 0]
    assert_resumes_exactly(lambda: FilterIterator(ListIterator(items), even))


def test_at_a_yield_it_has_looked_at_nothing_further() -> None:
    iterator = FilterIterator(ListIterator([1, 2, 3, 4]), even)
    next(iterator.create_iter())
    assert iterator.get_state().inner.position == 2  # type: ignore[attr-defined]


def test_takes_a_partial() -> None:
    assert drain(FilterIterator(ListIterator([1, 2, 3]), partial(above, 1))) == [2, 3]


def test_the_predicate_is_configuration() -> None:
    saved = FilterIterator(ListIterator([1, 2]), even)
    drain(saved)
    assert compare_configuration(saved.get_state(), FilterIterator(ListIterator([1, 2]), even).get_state(), "it") == []
    given = FilterIterator(ListIterator([1, 2]), partial(above, 1)).get_state()
    assert [line.partition(":")[0] for line in compare_configuration(saved.get_state(), given, "it")] == [
        "it.predicate"
    ]


def test_refuses_a_predicate_that_is_not_registered() -> None:
    with pytest.raises(TypeError, match=r"FilterIterator's predicate: .*@asyncprefetch.register"):
        FilterIterator(ListIterator([1]), lambda item: True)


def test_refuses_what_is_no_stateful_iterator() -> None:
    with pytest.raises(TypeError, match="FilterIterator's inner must be a StatefulIterator, not"):
        FilterIterator([1], even)  # type: ignore[arg-type]
