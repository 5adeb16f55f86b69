from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncprefetch import IteratorState, register
from asyncprefetch.base import compare_configuration
from asyncprefetch.iterators import LoopingIterator, SamplingIterator, ShuffleIterator, from_iterable
from asyncprefetch.testing import assert_resumes_exactly
from tests.inside import permutation
from tests.iterators import sources
from tests.iterators.sources import ListIterator, drain

_failures: list[int] = []


@register("tests.shuffle.arrays")
def arrays() -> Iterator[Any]:
    return map(np.zeros, range(4))


@register("tests.shuffle.fails_once")
def fails_once() -> Iterator[int]:
    for i in range(6):
        if i in _failures:
            _failures.remove(i)
            raise OSError(f"at {i}")
        yield i


def shuffled(n: int, buffer_size: int, seed: int = 0) -> ShuffleIterator[int]:
    return ShuffleIterator(ListIterator(list(range(n))), buffer_size=buffer_size, seed=seed)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 10), buffer_size=st.integers(1, 12), seed=st.integers(0, 2**64 - 1))
def test_yields_each_block_in_the_order_of_its_number_and_resumes_exactly(n: int, buffer_size: int, seed: int) -> None:
    expected = []
    for block, begin in enumerate(range(0, n, buffer_size)):
        size = min(buffer_size, n - begin)
        expected += [begin + int(i) for i in permutation(seed, block, size)]
    assert drain(shuffled(n, buffer_size, seed)) == expected
    assert_resumes_exactly(lambda: shuffled(n, buffer_size, seed))


def test_this_order_is_for_ever() -> None:
    assert drain(shuffled(10, 4, seed=7)) == [0, 2, 3, 1, 5, 6, 7, 4, 8, 9]


def test_a_buffer_of_one_item_is_no_shuffle() -> None:
    assert drain(shuffled(5, 1)) == [0, 1, 2, 3, 4]


def test_each_epoch_and_each_seed_has_another_order() -> None:
    items = drain(ShuffleIterator(LoopingIterator(ListIterator(list(range(9))), 2), buffer_size=9))
    assert sorted(items[:9]) == sorted(items[9:]) == list(range(9))
    assert items[:9] != items[9:]
    assert drain(shuffled(9, 9, seed=1)) != items[:9]


def test_within_a_loop_each_epoch_has_the_same_order() -> None:
    items = drain(LoopingIterator(shuffled(6, 3), 2))
    assert items[:6] == items[6:]


def test_a_mixture_with_the_same_seed_is_shuffled_all_the_same() -> None:
    names = ("a", "b")
    mixture = SamplingIterator({n: LoopingIterator(ListIterator([n])) for n in names}, dict.fromkeys(names, 1), seed=7)
    items = list(islice(ShuffleIterator(mixture, buffer_size=1024, seed=7).create_iter(), 1024))
    assert 200 < items[:512].count("a") < 312


def test_its_state_holds_no_items_but_where_the_block_begins() -> None:
    iterator = shuffled(10, 4)
    items = iterator.create_iter()
    places = []
    for _ in range(10):
        next(items)
        state: Any = iterator.get_state()
        places.append((state.inner.position, state.block, state.emitted))
    block = [[(4 * i, i, k) for k in (1, 2, 3)] + [(4 * i + 4, i + 1, 0)] for i in range(2)]
    assert places == [*block[0], *block[1], (8, 2, 1), (10, 3, 0)]


def test_resuming_draws_no_block_again_of_which_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    iterator = shuffled(8, 4)
    list(islice(iterator.create_iter(), 4))
    state: Any = iterator.get_state()
    built = ListIterator(list(range(8)), state.inner.position)
    monkeypatch.setattr(sources, "ListIterator", lambda *args: built)
    next(state.build().create_iter())
    assert (state.inner.position, built.position) == (4, 8)


def test_the_inner_state_is_asked_for_once_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    source = ListIterator(list(range(100)))
    monkeypatch.setattr(sources, "ListIterator", lambda *args: source)
    iterator = ShuffleIterator(source, buffer_size=10)
    for _ in iterator.create_iter():
        iterator.get_state()
    assert source.asked == 1 + 10


def test_keeps_nothing_that_was_yielded() -> None:
    items = ShuffleIterator(from_iterable(arrays), buffer_size=4).create_iter()
    first = weakref.ref(next(items))
    next(items)
    gc.collect()
    assert first() is None


def test_a_block_whose_drawing_failed_is_drawn_again() -> None:
    _failures[:] = [4]
    iterator = ShuffleIterator(from_iterable(fails_once), buffer_size=3)
    items = iterator.create_iter()
    got = list(islice(items, 3))
    with pytest.raises(OSError, match="at 4"):
        next(items)
    got += drain(iterator)
    assert sorted(got) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("buffer_size", "seed"), [(0, 0), (-1, 0), (None, 0), (1 << 63, 0), (2, -1), (2, 1 << 64), (2, 0.5)]
)
def test_refuses_sizes_and_seeds_out_of_range(buffer_size: Any, seed: Any) -> None:
    with pytest.raises(ValueError, match=r"buffer_size|seed"):
        ShuffleIterator(ListIterator([1]), buffer_size=buffer_size, seed=seed)


def test_an_iterator_that_is_dropped_within_a_block_is_freed_at_once() -> None:
    gc.disable()
    try:
        iterator = shuffled(9, 4)
        items = iterator.create_iter()
        next(items)
        watched = weakref.ref(iterator)
        del iterator, items
        assert watched() is None
    finally:
        gc.enable()


def test_refuses_what_is_no_stateful_iterator() -> None:
    with pytest.raises(TypeError, match="ShuffleIterator's inner must be a StatefulIterator, not"):
        ShuffleIterator([1], buffer_size=1)  # type: ignore[arg-type]


def test_refuses_to_resume_when_the_items_became_fewer() -> None:
    iterator = shuffled(6, 6)
    list(islice(iterator.create_iter(), 3))
    state = iterator.get_state().model_copy(update={"inner": ListIterator([1, 2]).get_state()})
    with pytest.raises(ValueError, match="block 0 has 2 items now, and 3 of it had been yielded"):
        drain(IteratorState.model_validate_json(state.model_dump_json()).build())


def test_size_and_seed_are_configuration_and_the_place_is_not() -> None:
    saved = shuffled(6, 4)
    list(islice(saved.create_iter(), 5))
    assert compare_configuration(saved.get_state(), shuffled(6, 4).get_state(), "it") == []
    lines = compare_configuration(saved.get_state(), shuffled(6, 3, 1).get_state(), "it")
    assert [line.partition(":")[0] for line in lines] == ["it.buffer_size", "it.seed"]
