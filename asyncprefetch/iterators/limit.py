"""The first items of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Generic, TypeVar

from pydantic import AfterValidator, Field, NonNegativeInt, ValidationInfo

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._stage import state_of

T = TypeVar("T")


def _at_most_n(yielded: int, info: ValidationInfo) -> int:
    n = info.data.get("n", yielded)
    if yielded > n:
        raise ValueError(f"{yielded} items were yielded, and the limit is {n}")
    return yielded


class LimitIterator(StatefulIterator[T], Generic[T], kind="asyncprefetch.limit"):
    """Yields the first ``n`` items of an iterator, or all if it has fewer. It draws no item after the ``n``-th.

    Args:
        inner: the iterator to draw from. Only its state is used; the object itself is not advanced.
        n: the largest number of items, from 0.

    Attributes:
        yielded: how many items were yielded.

    Raises:
        TypeError: ``inner`` is not a stateful iterator.
        ValueError: ``n`` is negative.
    """

    inner: StatefulIterator[T]
    n: Annotated[int, Field(ge=0, lt=1 << 63)]
    yielded: Position[Annotated[NonNegativeInt, AfterValidator(_at_most_n)]] = 0

    def __init__(self, inner: StatefulIterator[T], n: int) -> None:
        super().__init__(inner=state_of(inner, "LimitIterator's inner"), n=n)

    def create_iter(self) -> Iterator[T]:
        """Return an iterator over the items that were not yielded yet."""
        for item in islice(self.inner, self.n - self.yielded):
            # Count before the yield: at the yield, the state is the one after this item.
            self.yielded += 1
            yield item


if TYPE_CHECKING:

    class LimitState(IteratorState):
        """The state of a ``LimitIterator``."""

        inner: IteratorState
        n: int
        yielded: int
else:
    LimitState = LimitIterator.State
