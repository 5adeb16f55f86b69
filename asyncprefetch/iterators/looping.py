"""Epochs: the same stream over and over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self, TypeVar

from pydantic import NonNegativeInt, PositiveInt, model_validator

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._stage import state_of

T = TypeVar("T")


class LoopingState(IteratorState, kind="asyncprefetch.looping", frozen=True):
    """Where each epoch begins, and where the current one is.

    Attributes:
        start: the state of the inner iterator at the beginning of every epoch.
        inner: its state now.
        epochs: how many epochs there are; ``None``: no end.
        epoch: the current one, from 0.
        items: how many items the current epoch has yielded, which tells one that is over from one that is empty.
    """

    start: IteratorState
    # A position as a whole: its configuration is that of ``start``, and is compared there.
    inner: Position[IteratorState]
    epochs: PositiveInt | None
    epoch: Position[NonNegativeInt] = 0
    items: Position[NonNegativeInt] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is not None and self.epoch >= self.epochs:
            raise ValueError(f"epoch {self.epoch} of {self.epochs}, counted from 0")  # it would never end
        return self

    def build(self) -> LoopingIterator[Any]:
        """The iterator, in the midst of its epoch."""
        iterator: LoopingIterator[Any] = LoopingIterator.__new__(LoopingIterator)
        iterator._resume(self)
        return iterator


class LoopingIterator(StatefulIterator[T]):
    """The items of an iterator in ``epochs`` passes, or without end.

    Every epoch begins where ``iterator`` stands when it is given. The object itself is only asked for its state.

    Args:
        iterator: what to repeat.
        epochs: the number of passes, from 1; ``None``: no end.

    Raises:
        TypeError: ``iterator`` is no stateful iterator.
        ValueError: ``epochs`` is below 1.
    """

    def __init__(self, iterator: StatefulIterator[T], epochs: int | None = None) -> None:
        start = state_of(iterator, "LoopingIterator's iterator")
        self._resume(LoopingState(start=start, inner=start, epochs=epochs))

    def _resume(self, state: LoopingState) -> None:
        self._state = state  # as of the time when self._inner was built
        self._inner: StatefulIterator[T] | None = None
        self._items = state.items

    def get_state(self) -> LoopingState:
        """The epoch, and where in it the inner iterator is."""
        if self._inner is None:
            return self._state
        return self._state.model_copy(update={"inner": self._inner.get_state(), "items": self._items})

    def create_iter(self) -> Iterator[T]:
        """The rest of the current epoch, then the epochs after it.

        Raises:
            ValueError: the inner iterator yielded nothing in a whole epoch; looping would spin without end.
        """
        while True:
            if self._inner is None:
                self._inner = self._state.inner.build()
            for item in self._inner.create_iter():
                self._items += 1
                yield item
            epoch, start = self._state.epoch, self._state.start
            if not self._items:
                raise ValueError(
                    f"epoch {epoch} of {start!r:.200} yielded nothing: there is nothing to repeat. Leave this loop out, or "
                    "look at what leaves no items, such as a filter, or more shards than there are documents"
                )
            if epoch + 1 == self._state.epochs:
                return
            self._resume(self._state.model_copy(update={"inner": start, "epoch": epoch + 1, "items": 0}))
