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
    """The state of the inner iterator, and the function, which a checkpoint names by its tag."""

    function: Callable[..., Any]

    def build(self) -> MapIterator[Any]:
        """The iterator over what the function makes of the items that are still to come."""
        return MapIterator._from(self)


class MapIterator(Stage[MapState, U]):
    """``function(item)`` for every item.

    Args:
        inner: what to draw items from. The object itself is only asked for its state.
        function: made known to checkpoints by ``@register("your.tag")``; a ``functools.partial`` of such a function
            will do if a checkpoint can hold what it binds. It must give the same for the same item at each call, so
            random numbers in it must come from the item.

    Raises:
        TypeError: ``inner`` is no stateful iterator, or a checkpoint can't name the function, or it can't be called
            with one argument.
    """

    def __init__(self, inner: StatefulIterator[T], function: Callable[[T], U]) -> None:
        held = named(function, "MapIterator's function")
        self._resume(MapState(inner=state_of(inner, "MapIterator's inner"), function=held))

    def create_iter(self) -> Iterator[U]:
        """What the function makes of the items that are still to come."""
        function = called(self._state.function)
        for item in self._draw():
            yield self._make(function, item)
