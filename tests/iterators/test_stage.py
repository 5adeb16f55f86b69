"""An iterator that failed with an item refuses ``get_state``: the item that it drew is in no state."""

import pytest

from asyncprefetch import register
from asyncprefetch.iterators import BatchIterator, FilterIterator, MapIterator, PreprocessIterator
from tests.iterators.sources import ListIterator


@register("tests.stage.fails_with_three")
def fails_with_three(item):
    if item in (3, [3]):
        raise ValueError("three")
    return item


@pytest.mark.parametrize(
    "make",
    [
        lambda: MapIterator(ListIterator([1, 2, 3, 4]), fails_with_three),
        lambda: FilterIterator(ListIterator([1, 2, 3, 4]), fails_with_three),
        lambda: BatchIterator(ListIterator([1, 2, 3, 4]), 1, collate=fails_with_three),
        lambda: PreprocessIterator(ListIterator(["1", "2", "\ud800", "4"])),
    ],
)
def test_what_failed_is_in_no_state_and_the_state_before_serves(make):
    iterator = make()
    items = iterator.create_iter()
    first = [next(items), next(items)]
    before = iterator.get_state()
    with pytest.raises(ValueError, match=r"three|surrogates"):
        next(items)
    with pytest.raises(RuntimeError, match="a state that was taken before"):
        iterator.get_state()
    with pytest.raises(RuntimeError, match="a state that was taken before"):
        next(iterator.create_iter())
    assert len(first) == 2
    with pytest.raises(ValueError, match=r"three|surrogates"):
        next(before.build().create_iter())
