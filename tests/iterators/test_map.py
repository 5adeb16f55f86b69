from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import MapIterator
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import ListIterator, drain


@register("tests.map.halved")
def halved(item: int) -> float:
    return item / 2


@register("tests.map.scaled")
def scaled(factor: Any, item: int, *, plus: int = 0) -> Any:
    return factor * item + plus


@register("tests.map.fails_at_three")
def fails_at_three(item: int) -> int:
    if item == 3:
        raise KeyError(item)
    return item


@settings(max_examples=25, deadline=None)
@given(items=st.lists(st.integers(), max_size=5))
def test_yields_what_the_function_makes_of_each_item_and_resumes_exactly(items: list[int]) -> None:
    assert drain(MapIterator(ListIterator(items), halved)) == [item / 2 for item in items]
    assert_resumes_exactly(lambda: MapIterator(ListIterator(items), halved))


def test_a_partial_of_a_registered_function_resumes_exactly() -> None:
    def make() -> MapIterator[int]:
        return MapIterator(ListIterator([1, 2]), partial(partial(scaled, 3), plus=1))

    assert drain(make()) == [4, 7]
    assert_resumes_exactly(make)


def test_a_partial_may_bind_arrays() -> None:
    factor = np.arange(3, dtype=np.float32)
    iterator = MapIterator(ListIterator([1, 2]), partial(scaled, factor))
    [first, second] = drain(IteratorState.model_validate_json(iterator.get_state().model_dump_json()).build())
    np.testing.assert_array_equal(first, factor)
    assert second.dtype == np.float32


def test_its_state_crosses_to_a_worker_by_pickle() -> None:
    state = MapIterator(ListIterator([1, 2]), partial(scaled, 3)).get_state()
    crossed = pickle.loads(pickle.dumps(state, 5))
    assert crossed == state
    assert drain(crossed.build()) == [3, 6]


def test_its_state_names_the_function_by_its_tag() -> None:
    text = MapIterator(ListIterator([]), partial(scaled, 3)).get_state().model_dump_json()
    assert "tests.map.scaled" in text
    assert "test_map" not in text


def test_an_error_of_the_function_reaches_the_consumer() -> None:
    items = MapIterator(ListIterator([1, 3]), fails_at_three).create_iter()
    assert next(items) == 1
    with pytest.raises(KeyError):
        next(items)


def test_the_function_and_what_it_binds_are_configuration() -> None:
    def lines(given: Any) -> list[str]:
        saved = MapIterator(ListIterator([1]), partial(scaled, 3))
        drain(saved)
        return compare_configuration(saved.get_state(), MapIterator(ListIterator([1]), given).get_state(), "it")

    assert lines(partial(scaled, 3)) == []
    assert lines(partial(scaled, 4)) == ["it.function.args[0]: saved 3, given 4"]
    assert lines(partial(scaled, 3, plus=1)) == ["it.function.keywords: saved {}, given {'plus': 1}"]
    assert len(lines(halved)) == 1


def test_refuses_what_is_no_stateful_iterator() -> None:
    with pytest.raises(TypeError, match="MapIterator's inner must be a StatefulIterator, not"):
        MapIterator([1], halved)  # type: ignore[arg-type]


def test_refuses_a_function_that_is_not_registered() -> None:
    with pytest.raises(TypeError, match=r"MapIterator's function: .*@asyncprefetch.register"):
        MapIterator(ListIterator([1]), lambda item: item)
