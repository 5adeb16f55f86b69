"""Epochs: the same stream over and over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

from pydantic import AfterValidator, NonNegativeInt, PositiveInt, ValidationInfo

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._stage import state_of

T = TypeVar("T")


def _below_epochs(epoch: int, info: ValidationInfo) -> int:
    epochs = info.data.get("epochs")
    if epochs is not None and epoch >= epochs:
        raise ValueError(f"epoch {epoch} of {epochs}, counted from 0")  # it would never end
    return epoch


class LoopingIterator(StatefulIterator[T], Generic[T], kind="asyncprefetch.looping"):
    """Yields the items of an iterator in ``epochs`` passes, or without end.

    Every epoch begins at the state that ``iterator`` has when it is given. Only that state is used; the object itself is
    not advanced.

    Args:
        iterator: the iterator to repeat.
        epochs: the number of passes, from 1; ``None``: no end.

    Attributes:
        start: the state of the inner iterator at the beginning of every epoch.
        inner: the inner iterator, in the current epoch.
        epoch: the number of the current epoch, from 0.
        items: how many items the current epoch has yielded. It distinguishes an epoch that is over from an empty one.

    Raises:
        TypeError: ``iterator`` is not a stateful iterator.
        ValueError: ``epochs`` is below 1.
    """

    start: IteratorState
    # The whole state is a position: its configuration is that of ``start``, and is compared there.
    inner: Position[StatefulIterator[T]]
    epochs: PositiveInt | None
    epoch: Position[Annotated[NonNegativeInt, AfterValidator(_below_epochs)]] = 0
    items: Position[NonNegativeInt] = 0

    def __init__(self, iterator: StatefulIterator[T], epochs: int | None = None) -> None:
        start = state_of(iterator, "LoopingIterator's iterator")
        super().__init__(start=start, inner=start, epochs=epochs)

    def create_iter(self) -> Iterator[T]:
        """Return an iterator over the rest of the current epoch, then over the epochs after it.

        Raises:
            ValueError: the inner iterator yielded nothing in a whole epoch, so looping would never end.
        """
        while True:
            for item in self.inner:
                self.items += 1
                yield item
            if not self.items:
                raise ValueError(
                    f"epoch {self.epoch} of {self.start!r:.200} yielded nothing, so there is nothing to repeat. Remove this "
                    "loop, or find out what leaves no items: a filter, or more shards than documents"
                )
            if self.epoch + 1 == self.epochs:
                return
            self.inner, self.epoch, self.items = self.start.build(), self.epoch + 1, 0


if TYPE_CHECKING:

    class LoopingState(IteratorState):
        """The state of a ``LoopingIterator``."""

        start: IteratorState
        inner: IteratorState
        epochs: int | None
        epoch: int
        items: int
else:
    LoopingState = LoopingIterator.State
