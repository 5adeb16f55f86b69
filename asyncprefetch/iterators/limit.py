"""The first items of a stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Self, TypeVar

from pydantic import Field, NonNegativeInt, model_validator

from asyncprefetch.base import Position, StatefulIterator
from asyncprefetch.iterators._stage import Stage, StageState, state_of

T = TypeVar("T")


class LimitState(StageState, kind="asyncprefetch.limit", frozen=True):
    """How many items there may be, and how many there were.

    Attributes:
        inner: the state of the inner iterator.
        n: the limit.
        yielded: how many of them were yielded.
    """

    n: Annotated[int, Field(ge=0, lt=1 << 63)]
    yielded: Position[NonNegativeInt] = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.yielded > self.n:
            raise ValueError(f"{self.yielded} items were yielded of {self.n}")
        return self

    def build(self) -> LimitIterator[Any]:
        """The iterator over what the limit leaves."""
        return LimitIterator._from(self)


class LimitIterator(Stage[LimitState, T]):
    """The first ``n`` items of an iterator, or all if it has fewer. No item after the ``n``-th is drawn.

    Args:
        inner: what to take from. The object itself is only asked for its state.
        n: at most so many items, from 0.

    Raises:
        TypeError: ``inner`` is no stateful iterator.
        ValueError: ``n`` is negative.
    """

    def __init__(self, inner: StatefulIterator[T], n: int) -> None:
        self._resume(LimitState(inner=state_of(inner, "LimitIterator's inner"), n=n))

    def _resume(self, state: LimitState) -> None:
        super()._resume(state)
        self._yielded = state.yielded

    def _position(self) -> dict[str, Any]:
        return {"yielded": self._yielded}

    def create_iter(self) -> Iterator[T]:
        """The items that are still to come."""
        for item in islice(self._draw(), max(0, self._state.n - self._yielded)):
            # Counted before the yield: at the yield the state is that after this item.
            self._yielded += 1
            yield item
