"""The items that a function lets pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from asyncprefetch.base import StatefulIterator
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._stage import Stage, StageState, state_of

T = TypeVar("T")


class FilterState(StageState, kind="asyncprefetch.filter", frozen=True):
    """The state of the inner iterator, and the predicate, which a checkpoint names by its tag."""

    predicate: Callable[..., Any]

    def build(self) -> FilterIterator[Any]:
        """The iterator over those of the items still to come that the predicate lets pass."""
        return FilterIterator._from(self)


class FilterIterator(Stage[FilterState, T]):
    """The items for which ``predicate(item)`` is true.

    Around an endless iterator of which nothing passes, it searches without end. Within a :class:`LoopingIterator` it does
    not: an epoch without items is an error.

    Args:
        inner: what to draw items from. The object itself is only asked for its state.
        predicate: made known to checkpoints by ``@register("your.tag")``, or a ``functools.partial`` of such a function,
            as for :class:`MapIterator`. It must say the same of the same item at each call.

    Raises:
        TypeError: ``inner`` is no stateful iterator, or a checkpoint can't name the predicate, or it can't be called
            with one argument.
    """

    def __init__(self, inner: StatefulIterator[T], predicate: Callable[[T], Any]) -> None:
        held = named(predicate, "FilterIterator's predicate")
        self._resume(FilterState(inner=state_of(inner, "FilterIterator's inner"), predicate=held))

    def create_iter(self) -> Iterator[T]:
        """Those of the items still to come that the predicate lets pass."""
        predicate = called(self._state.predicate)
        for item in self._draw():
            if self._make(predicate, item):
                yield item
