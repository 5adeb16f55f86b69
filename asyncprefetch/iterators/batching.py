"""Several items as one."""

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
    """The state of the inner iterator, how many items make a batch, and how.

    No items are held: between two batches none was drawn that was not yielded.
    """

    batch_size: int = Field(ge=1, lt=1 << 63)
    drop_last: bool
    collate: Callable[..., Any] | None

    def build(self) -> BatchIterator:
        """The iterator over the batches that are still to come."""
        return BatchIterator._from(self)


class BatchIterator(Stage[BatchState, Any]):
    """Lists of ``batch_size`` items, or what ``collate`` makes of each list. (For token arrays: PackingIterator.)

    Args:
        inner: what to draw items from; it must not use the memory of an item again after the yield. The object itself
            is only asked for its state.
        batch_size: items a batch, from 1, below 2**63.
        drop_last: whether a last batch of fewer items is left out.
        collate: takes the list, and returns the batch; made known to checkpoints by ``@register("your.tag")``, or a
            ``functools.partial`` of such a function, as for :class:`MapIterator`.

    Raises:
        TypeError: ``inner`` is no stateful iterator, or a checkpoint can't name ``collate``, or it can't be called with
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
        """The batches that are still to come."""
        size, drop_last, held = self._state.batch_size, self._state.drop_last, self._state.collate
        collate = None if held is None else called(held)
        items = self._draw()
        batch: list[Any]
        while batch := self._make(list, islice(items, size)):
            if len(batch) < size and drop_last:
                return
            yield batch if collate is None else self._make(collate, batch)
