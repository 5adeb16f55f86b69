from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import from_iterable
from asyncprefetch.testing import assert_resumes_exactly
from tests.iterators.sources import drain

_given: list[Any] = []


@register("tests.from_iterable.given")
def given_items() -> list[Any]:
    return _given


@register("tests.from_iterable.arrays")
def arrays() -> Iterator[Any]:
    for i in range(5):
        yield {"x": np.full(i, i, np.float32), "i": i}


@register("tests.from_iterable.broken")
def breaks_at_two() -> Iterator[int]:
    yield 0
    yield 1
    raise KeyError("two")


@register("tests.from_iterable.no_iterable")
def returns_an_int() -> Any:
    return 7


@register("tests.from_iterable.argument")
def needs_an_argument(n: int) -> list[int]:
    return list(range(n))


@register("tests.from_iterable.default")
def has_a_default(n: int = 3) -> range:
    return range(n)


@pytest.fixture
def given() -> Iterator[list[Any]]:
    _given[:] = [1, None, "three", (4.0, float("nan"))]
    yield _given
    _given.clear()


def test_yields_what_the_factory_gives_in_its_order(given: list[Any]) -> None:
    assert drain(from_iterable(given_items)) == given


@pytest.mark.parametrize("factory", [given_items, arrays, has_a_default])
def test_resumes_exactly(factory: Any, given: list[Any]) -> None:
    assert_resumes_exactly(lambda: from_iterable(factory))


def test_of_an_empty_iterable_resumes_exactly(given: list[Any]) -> None:
    given.clear()
    assert_resumes_exactly(lambda: from_iterable(given_items))


def test_its_state_names_the_factory_by_its_tag() -> None:
    text = from_iterable(arrays).get_state().model_dump_json()
    assert "tests.from_iterable.arrays" in text
    assert "test_from_iterable" not in text


def test_goes_on_at_the_item_whose_making_failed() -> None:
    iterator = from_iterable(breaks_at_two)
    items = iterator.create_iter()
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(KeyError):
        next(items)
    assert iterator.get_state().position == 2
    with pytest.raises(KeyError):
        next(iterator.create_iter())


def test_refuses_to_resume_an_iterable_that_became_shorter(given: list[Any]) -> None:
    iterator = from_iterable(given_items)
    items = iterator.create_iter()
    for _ in range(3):
        next(items)
    state = iterator.get_state()
    del given[1:]
    with pytest.raises(ValueError, match=r"'tests.from_iterable.given' gave 1 items, fewer than the 3"):
        drain(state.build())


def test_refuses_a_factory_that_is_not_registered() -> None:
    def unknown() -> list[int]:
        return []

    with pytest.raises(TypeError, match=r"unknown is not registered.*@asyncprefetch.register\('your.tag'\)"):
        from_iterable(unknown)


@pytest.mark.parametrize("factory", [[1, 2], 7, None])
def test_refuses_what_is_not_callable(factory: Any) -> None:
    with pytest.raises(TypeError, match="takes a function that returns an iterable"):
        from_iterable(factory)


def test_refuses_a_factory_that_needs_arguments() -> None:
    with pytest.raises(TypeError, match=r"must be callable without arguments.*'n'"):
        from_iterable(needs_an_argument)  # type: ignore[arg-type]


def test_refuses_a_factory_that_returns_no_iterable() -> None:
    with pytest.raises(TypeError, match=r"'tests.from_iterable.no_iterable' must return an iterable, not 7"):
        drain(from_iterable(returns_an_int))


def test_the_factory_is_configuration_and_the_position_is_not() -> None:
    started = from_iterable(arrays)
    next(started.create_iter())
    assert compare_configuration(started.get_state(), from_iterable(arrays).get_state(), "it") == []
    differing = compare_configuration(started.get_state(), from_iterable(has_a_default).get_state(), "it")
    assert [line.partition(":")[0] for line in differing] == ["it.factory"]


def test_a_position_below_zero_is_no_state() -> None:
    text = from_iterable(arrays).get_state().model_dump_json().replace('"position":0', '"position":-1')
    with pytest.raises(Exception, match="position"):
        IteratorState.model_validate_json(text)
