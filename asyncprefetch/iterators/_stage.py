"""The common part of iterators that hold no items between two yields."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from asyncprefetch.base import IteratorState, StatefulIterator

T = TypeVar("T")
U = TypeVar("U")
S = TypeVar("S", bound="StageState")


class StageState(IteratorState, frozen=True):
    """The state of the inner iterator. A subclass adds its configuration."""

    inner: IteratorState


class Stage(StatefulIterator[T], Generic[S, T]):
    """Draws from an inner iterator only what it needs for each item, so its position is that of the inner iterator."""

    @classmethod
    def _from(cls, state: S) -> Self:
        iterator = cls.__new__(cls)
        iterator._resume(state)
        return iterator

    def _resume(self, state: S) -> None:
        self._state = state  # from before self._inner was built
        self._inner: StatefulIterator[Any] | None = None
        self._failed = False  # after an item was drawn, so the inner iterator is too far

    def get_state(self) -> S:
        """Return the state of the inner iterator with the configuration.

        Raises:
            RuntimeError: making an item failed, so what was drawn for it is in no state.
        """
        self._check()
        if self._inner is None:
            return self._state
        return self._state.model_copy(update={"inner": self._inner.get_state(), **self._position()})

    def _position(self) -> dict[str, Any]:
        """Return the other fields of the state that change from item to item."""
        return {}

    def _draw(self) -> Iterator[Any]:
        """Return an iterator over the items of the inner iterator that were not drawn yet."""
        self._check()
        if self._inner is None:
            self._inner = self._state.inner.build()
        return iter(self._inner)

    def _make(self, function: Callable[..., U], *args: Any) -> U:
        """Call a function with items that were drawn. If it fails, there is no state any more."""
        try:
            return function(*args)
        except BaseException:
            self._failed = True
            raise

    def _check(self) -> None:
        if self._failed:
            raise RuntimeError(
                f"{type(self).__name__} failed with an item: continue from a state that was taken before"
            )


def state_of(iterator: Any, what: str) -> IteratorState:
    """Return the state of an iterator that was given; ``what`` is its name in messages.

    Raises:
        TypeError: it is not a :class:`StatefulIterator`.
    """
    if not isinstance(iterator, StatefulIterator):
        raise TypeError(
            f"{what} must be a StatefulIterator, not {iterator!r:.80}; asyncprefetch.iterators.from_iterable makes one "
            "of a function that returns an iterable"
        )
    return iterator.get_state()
