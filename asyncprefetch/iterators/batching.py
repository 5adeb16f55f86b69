"""Groups of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import Field

from asyncprefetch.base import StatefulIterator
from asyncprefetch.iterators._functions import called, named
from asyncprefetch.iterators._stage import Stage, StageState, state_of

T = TypeVar("T")


class BatchState(StageState, kind="asyncprefetch.batch", frozen=True):
    """The state of the inner iterator, and how items become batches.

    It holds no items: between two batches, every item that was drawn was yielded.
    """

    batch_size: int = Field(ge=1, lt=1 << 63)
    drop_last: bool
    collate: Callable[..., Any] | None

    def build(self) -> BatchIterator:
        """Return the iterator over the batches that were not yielded yet."""
        return BatchIterator._from(self)


class BatchIterator(Stage[BatchState, Any]):
    """Yields lists of ``batch_size`` items, or the result of ``collate`` for each list.

    For token arrays use :class:`PackingIterator`.

    Args:
        inner: the iterator to draw from. It must not reuse the memory of an item after the yield. Only its state is used;
            the object itself is not advanced.
        batch_size: items in a batch, from 1, below 2**63.
        drop_last: whether a last batch with fewer items is left out.
        collate: takes the list and returns the batch. Register it by ``@register("your.tag")``, or pass a
            ``functools.partial`` of a registered function.

    Raises:
        TypeError: ``inner`` is not a stateful iterator, or a checkpoint can't name ``collate``, or it can't be called with
            one argument.
        ValueError: ``batch_size`` is out of range.
    """

    def __init__(
        self,
        inner: StatefulIterator[T],
        batch_size: int,
        drop_last: bool = False,
        collate: Callable[[list[T]], Any] | None = None,
    ) -> None:
        self._resume(
            BatchState(
                inner=state_of(inner, "BatchIterator's inner"),
                batch_size=batch_size,
                drop_last=drop_last,
                collate=None if collate is None else named(collate, "BatchIterator's collate"),
            )
        )

    def create_iter(self) -> Iterator[Any]:
        """Return an iterator over the batches that were not yielded yet."""
        size, drop_last, held = self._state.batch_size, self._state.drop_last, self._state.collate
        collate = None if held is None else called(held)
        items = self._draw()
        batch: list[Any]
        while batch := self._make(list, islice(items, size)):
            if len(batch) < size and drop_last:
                return
            yield batch if collate is None else self._make(collate, batch)
