"""What the iterators that hold nothing back between two yields have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, Self, TypeVar

from asyncprefetch.base import IteratorState, StatefulIterator

T = TypeVar("T")
U = TypeVar("U")
S = TypeVar("S", bound="StageState")


class StageState(IteratorState, frozen=True):
    """The state of the inner iterator, beside the configuration that a subclass adds."""

    inner: IteratorState


class Stage(StatefulIterator[T], Generic[S, T]):
    """Takes what it needs of an inner iterator for each item, and no more: where that one is, this one is."""

    @classmethod
    def _from(cls, state: S) -> Self:
        iterator = cls.__new__(cls)
        iterator._resume(state)
        return iterator

    def _resume(self, state: S) -> None:
        self._state = state  # as of the time before self._inner was built
        self._inner: StatefulIterator[Any] | None = None
        self._failed = False  # with what was drawn of the inner iterator: then that one stands behind it

    def get_state(self) -> S:
        """The state of the inner iterator: nothing is held back.

        Raises:
            RuntimeError: making an item failed: what was drawn for it is in no state.
        """
        self._check()
        if self._inner is None:
            return self._state
        return self._state.model_copy(update={"inner": self._inner.get_state(), **self._position()})

    def _position(self) -> dict[str, Any]:
        """What else in the state changes from item to item."""
        return {}

    def _draw(self) -> Iterator[Any]:
        """The items of the inner iterator that are still to come."""
        self._check()
        if self._inner is None:
            self._inner = self._state.inner.build()
        return iter(self._inner.create_iter())

    def _make(self, function: Callable[..., U], *args: Any) -> U:
        """Call what makes something of items that were drawn; if that fails, there is no state any more."""
        try:
            return function(*args)
        except BaseException:
            self._failed = True
            raise

    def _check(self) -> None:
        if self._failed:
            raise RuntimeError(f"{type(self).__name__} failed with an item: go on from a state that was taken before")


def state_of(iterator: Any, what: str) -> IteratorState:
    """The state of an iterator that was given; ``what`` is what messages call it.

    Raises:
        TypeError: it is no :class:`StatefulIterator`.
    """
    if not isinstance(iterator, StatefulIterator):
        raise TypeError(
            f"{what} must be a StatefulIterator, not {iterator!r:.80}; asyncprefetch.iterators.from_iterable makes one "
            "of a function that returns an iterable"
        )
    return iterator.get_state()
