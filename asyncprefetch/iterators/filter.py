"""The items that a function selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from asyncprefetch.base import StatefulIterator
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._stage import Stage, StageState, state_of

T = TypeVar("T")


class FilterState(StageState, kind="asyncprefetch.filter", frozen=True):
    """The state of the inner iterator, and the predicate. A checkpoint names the predicate by its tag."""

    predicate: Callable[..., Any]

    def build(self) -> FilterIterator[Any]:
        """Return the iterator over the selected items that were not yielded yet."""
        return FilterIterator._from(self)


class FilterIterator(Stage[FilterState, T]):
    """Yields the items for which ``predicate(item)`` is true.

    If no item of an endless iterator passes, it searches forever. Put it inside a :class:`LoopingIterator` to avoid that: an
    epoch without items is an error.

    Args:
        inner: the iterator to draw from. Only its state is used; the object itself is not advanced.
        predicate: takes an item. Register it by ``@register("your.tag")``, or pass a ``functools.partial`` of a registered
            function. It must give the same result for the same item at each call.

    Raises:
        TypeError: ``inner`` is not a stateful iterator, or a checkpoint can't name the predicate, or it can't be called
            with one argument.
    """

    def __init__(self, inner: StatefulIterator[T], predicate: Callable[[T], Any]) -> None:
        held = named(predicate, "FilterIterator's predicate")
        self._resume(FilterState(inner=state_of(inner, "FilterIterator's inner"), predicate=held))

    def create_iter(self) -> Iterator[T]:
        """Return an iterator over the selected items that were not yielded yet."""
        predicate = called(self._state.predicate)
        for item in self._draw():
            if self._make(predicate, item):
                yield item
