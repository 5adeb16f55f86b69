from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import CheckpointError, IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import FilterIterator, LoopingIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


@register("tests.looping.even")
def even(item: int) -> bool:
    return item % 2 == 0


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), min_size=1, max_size=4), epochs=st.integers(1, 4))
def test_repeats_its_items_as_often_as_asked_and_resumes_exactly(items: list[int], epochs: int) -> None:
    assert drain(LoopingIterator(ListIterator(items), epochs)) == items * epochs
    assert_resumes_exactly(lambda: LoopingIterator(ListIterator(items), epochs))


def test_without_a_number_of_epochs_it_has_no_end() -> None:
    assert list(islice(LoopingIterator(ListIterator([1, 2])).create_iter(), 7)) == [1, 2, 1, 2, 1, 2, 1]
    assert_resumes_exactly(lambda: LoopingIterator(ListIterator([1, 2])), max_items=7)


def test_a_loop_of_loops_resumes_exactly() -> None:
    assert_resumes_exactly(lambda: LoopingIterator(LoopingIterator(ListIterator([1, 2, 3]), 2), 2))


def test_the_state_contains_the_epoch() -> None:
    iterator = LoopingIterator(ListIterator([1, 2]), 3)
    epochs = [iterator.get_state().epoch for _ in iterator.create_iter()]
    assert epochs == [0, 0, 1, 1, 2, 2]


def test_every_epoch_begins_where_the_iterator_was_when_it_was_given() -> None:
    inner = ListIterator([1, 2, 3])
    next(inner.create_iter())
    assert drain(LoopingIterator(inner, 2)) == [2, 3, 2, 3]


def test_leaves_the_iterator_that_it_was_given_alone() -> None:
    inner = ListIterator([1, 2, 3])
    drain(LoopingIterator(inner, 2))
    assert drain(inner) == [1, 2, 3]


@pytest.mark.parametrize("epochs", [None, 1, 3])
def test_an_epoch_without_items_is_an_error_instead_of_an_endless_loop(epochs: int | None) -> None:
    with pytest.raises(ValueError, match=r"epoch 0 of .* yielded nothing"):
        drain(LoopingIterator(ListIterator([]), epochs))


def test_resumed_at_the_end_of_an_epoch_it_does_not_take_that_for_an_empty_one() -> None:
    iterator = LoopingIterator(ListIterator([1]))
    next(iterator.create_iter())
    assert next(iterator.get_state().build().create_iter()) == 1


def test_resumed_into_an_empty_epoch_it_is_still_an_error() -> None:
    with pytest.raises(ValueError, match=r"epoch 0 of .* yielded nothing"):
        drain(LoopingIterator(ListIterator([])).get_state().build())


@pytest.mark.parametrize("epochs", [0, -1])
def test_refuses_a_number_of_epochs_below_one(epochs: int) -> None:
    with pytest.raises(ValueError, match="epochs"):
        LoopingIterator(ListIterator([1]), epochs)


def test_resumes_exactly_around_an_iterator_that_moves_after_its_last_item() -> None:
    assert_resumes_exactly(lambda: LoopingIterator(FilterIterator(ListIterator([2, 4, 5]), even), 3))


def test_after_the_end_its_state_has_nothing_left() -> None:
    iterator = LoopingIterator(ListIterator([1, 2]), 2)
    drain(iterator)
    state = IteratorState.model_validate_json(iterator.get_state().model_dump_json())
    resumed = state.build()
    assert drain(resumed) == []
    assert resumed.get_state() == state == iterator.get_state()


@pytest.mark.parametrize("given", [[1, 2], None, ListIterator])
def test_refuses_what_is_no_stateful_iterator(given: Any) -> None:
    with pytest.raises(TypeError, match="LoopingIterator's iterator must be a StatefulIterator, not"):
        LoopingIterator(given)


def test_the_number_of_epochs_and_the_inner_configuration_are_compared_once_and_positions_are_not() -> None:
    saved = LoopingIterator(ListIterator([1, 2]), 3)
    list(islice(saved.create_iter(), 3))
    assert compare_configuration(saved.get_state(), LoopingIterator(ListIterator([1, 2]), 3).get_state(), "it") == []
    differing = compare_configuration(saved.get_state(), LoopingIterator(ListIterator([1]), 4).get_state(), "it")
    assert [line.partition(":")[0] for line in differing] == ["it.start.items", "it.epochs"]


def test_a_state_of_an_epoch_after_the_last_is_refused() -> None:
    text = LoopingIterator(ListIterator([1]), 2).get_state().model_dump_json().replace('"epoch":0', '"epoch":2')
    with pytest.raises(CheckpointError, match="epoch 2 of 2, counted from 0"):
        IteratorState.model_validate_json(text)
