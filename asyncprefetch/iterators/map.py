"""A function applied to every item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from asyncprefetch.base import StatefulIterator
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._stage import Stage, StageState, state_of

T = TypeVar("T")
U = TypeVar("U")


class MapState(StageState, kind="asyncprefetch.map", frozen=True):
    """The state of the inner iterator, and the function. A checkpoint names the function by its tag."""

    function: Callable[..., Any]

    def build(self) -> MapIterator[Any]:
        """Return the iterator over the results that were not yielded yet."""
        return MapIterator._from(self)


class MapIterator(Stage[MapState, U]):
    """Yields ``function(item)`` for every item.

    Args:
        inner: the iterator to draw from. Only its state is used; the object itself is not advanced.
        function: takes an item. Register it by ``@register("your.tag")``, or pass a ``functools.partial`` of a registered
            function with arguments that a checkpoint can hold. It must give the same result for the same item at each
            call, so derive random numbers in it from the item.

    Raises:
        TypeError: ``inner`` is not a stateful iterator, or a checkpoint can't name the function, or it can't be called
            with one argument.
    """

    def __init__(self, inner: StatefulIterator[T], function: Callable[[T], U]) -> None:
        held = named(function, "MapIterator's function")
        self._resume(MapState(inner=state_of(inner, "MapIterator's inner"), function=held))

    def create_iter(self) -> Iterator[U]:
        """Return an iterator over the results that were not yielded yet."""
        function = called(self._state.function)
        for item in self._draw():
            yield self._make(function, item)
