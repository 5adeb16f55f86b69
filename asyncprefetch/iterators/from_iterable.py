"""The simplest source of a pipeline: a function that returns an iterable. A resume calls it again and skips."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import NonNegativeInt

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._functions import called, described, named

T = TypeVar("T")


class FromIterable(StatefulIterator[T], Generic[T], kind="asyncprefetch.from_iterable"):
    """Yields the items of ``factory()``. Make one by :func:`from_iterable`.

    The field holds the function and what is bound to it. A checkpoint names the function by its tag, and a worker imports it
    from its module.
    """

    factory: Callable[[], Iterable[T]]
    position: Position[NonNegativeInt] = 0

    def __init__(self, factory: Callable[[], Iterable[T]]) -> None:
        if not callable(factory):
            raise TypeError(f"from_iterable takes a function that returns an iterable, not {factory!r:.80}")
        super().__init__(factory=named(factory, "from_iterable's factory", n_arguments=0))

    def create_iter(self) -> Iterator[T]:
        """Call the factory, skip the items that were yielded before, and yield the rest.

        Raises:
            TypeError: the factory did not return an iterable.
            ValueError: the iterable ended before the position from which to continue.
        """
        made = called(self.factory)()
        try:
            items = iter(made)
        except TypeError:
            raise TypeError(
                f"the factory {described(self.factory)} must return an iterable, not {made!r:.80}"
            ) from None
        skipped = sum(1 for _ in islice(items, self.position))
        if skipped < self.position:
            raise ValueError(
                f"the factory {described(self.factory)} gave {skipped} items, fewer than the {self.position} that were "
                "yielded before: it must give the same items at each call. Restore its data, or start without the state"
            )
        for item in items:
            # Count before the yield: at the yield, the state is the one after this item.
            self.position += 1
            yield item


if TYPE_CHECKING:

    class FromIterableState(IteratorState):
        """The state of a ``FromIterable``."""

        factory: Callable[[], Iterable[Any]]
        position: int
else:
    FromIterableState = FromIterable.State


def from_iterable(factory: Callable[[], Iterable[T]]) -> FromIterable[T]:
    """Return a stateful iterator over the items of ``factory()``, in its order.

    Its state is the factory and a position. To resume, it calls the factory again and discards the items before the
    position. So the factory must give the same items at each call, and resuming takes time in proportion to the position.
    If your data can be read from the middle, write a :class:`StatefulIterator` instead.

    To use one function for several shards, bind its arguments by ``functools.partial``::

        @register("mycorpus.rows")
        def rows(path, shard, count): ...


        shards = [from_iterable(partial(rows, "corpus.db", shard=i, count=4)) for i in range(4)]

    Args:
        factory: a function without further required arguments. Register it by ``@register("your.tag")``, or pass a
            ``functools.partial`` of a registered function with arguments that a checkpoint can hold. They are copied: the
            state does not change if you or the function change one.

    Raises:
        TypeError: the factory is not callable or not registered, binds an argument that a checkpoint can't hold, or can't
            be called without arguments.
    """
    return FromIterable(factory)
