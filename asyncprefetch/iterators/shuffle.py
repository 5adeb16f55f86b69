"""A random order, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import Field, NonNegativeInt

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._position_digest import DrawnAgain, PositionDigest
from asyncprefetch.iterators._random import Seed, permutation
from asyncprefetch.iterators._stage import state_of

T = TypeVar("T")


class ShuffleState(IteratorState, kind="asyncprefetch.shuffle", frozen=True):
    """Where the current block begins, and how much of it was yielded.

    It holds no items: the order of a block is a function of the seed and of the number of the block. A resume draws the
    current block again.

    Attributes:
        inner: the state of the inner iterator before the first item of the block.
        buffer_size: items in a block.
        seed: the seed of all blocks.
        block: the number of the current block, from 0.
        emitted: how many of its items were yielded; always fewer than it has.
        witness: the digest of the inner iterator's position after the block. A resume that draws the block again compares
            it. Empty: nothing is drawn again, or the digest is unknown.
    """

    inner: IteratorState
    buffer_size: int = Field(ge=1, lt=1 << 63)
    seed: Seed
    block: Position[NonNegativeInt] = 0
    emitted: Position[NonNegativeInt] = 0
    witness: Position[str] = ""

    def build(self) -> ShuffleIterator[Any]:
        """Return the iterator within the current block."""
        iterator: ShuffleIterator[Any] = ShuffleIterator.__new__(ShuffleIterator)
        iterator._resume(self)
        return iterator


class ShuffleIterator(StatefulIterator[T]):
    """Draws blocks of ``buffer_size`` items, and yields each block in a random order.

    An item moves by fewer than ``buffer_size`` places, and a block is in memory until it is yielded. Around a
    :class:`LoopingIterator`, each epoch has a different order, and the last items of an epoch may mix with the first of the
    next. Inside a :class:`LoopingIterator`, each epoch has the same order.

    Args:
        inner: the iterator to draw from. It must not reuse the memory of an item after the yield. Only its state is used;
            the object itself is not advanced.
        buffer_size: items in a block, from 1, below 2**63. With 1, the order does not change.
        seed: an integer from 0, below 2**64. The order is a function of the seed and of the number of items, on every
            platform. Give two shuffles, one around the other, different seeds: the same seed permutes a block alike in both.

    Raises:
        TypeError: ``inner`` is not a stateful iterator.
        ValueError: ``buffer_size`` or ``seed`` is out of range.
    """

    def __init__(self, inner: StatefulIterator[T], *, buffer_size: int, seed: int = 0) -> None:
        self._resume(ShuffleState(inner=state_of(inner, "ShuffleIterator's inner"), buffer_size=buffer_size, seed=seed))

    def _resume(self, state: ShuffleState) -> None:
        self._state = state
        # The current block: where it begins, its number, how many items were yielded, and the other items in reverse order.
        self._anchor, self._number, self._emitted = state.inner, state.block, state.emitted
        self._block: list[T] = []
        self._following = state.inner  # where the next block begins
        self._position_digest = PositionDigest(state.witness)
        # Its position is the end of the current block. None: that block was not drawn yet.
        self._inner: StatefulIterator[T] | None = None

    def get_state(self) -> ShuffleState:
        """Return where the current block begins, and the position within it."""
        place = {"inner": self._anchor, "block": self._number, "emitted": self._emitted}
        return self._state.model_copy(update={**place, "witness": self._position_digest.digest()})

    def create_iter(self) -> Iterator[T]:
        """Return an iterator over the rest of the current block and the blocks after it.

        Raises:
            DocumentError: the current block was drawn again, and the data has changed.
            ValueError: the inner iterator ended before the position from which to continue.
        """
        inner = self._anchor.build() if self._inner is None else self._inner
        items = iter(inner)
        while True:
            if not self._block:
                # If this block is never completed, it is drawn again from its beginning.
                self._inner = None
                with DrawnAgain(self._emitted > 0, self._position_digest.digest()) as drawn_again:
                    block = self._draw(items)
                    if not block:
                        return
                    drawn_again.check(inner.get_state)
                self._block, self._inner, self._following = block, inner, inner.get_state()
                self._position_digest.set_source(_giving(self._following))
            block = self._block
            while len(block) > 1:
                # Count before the yield: at the yield, the state is the one after this item.
                self._emitted += 1
                yield block.pop()
            # At the last item, the state is already that of the next block. Otherwise a resume would draw this one in vain.
            self._anchor, self._number, self._emitted = self._following, self._number + 1, 0
            self._position_digest.forget()
            yield block.pop()

    def _draw(self, items: Iterator[T]) -> list[T]:
        """Draw the current block; return its rest in reverse order, empty at the end of the stream."""
        drawn = list(islice(items, self._state.buffer_size))
        if self._emitted and len(drawn) <= self._emitted:
            raise ValueError(
                f"block {self._number} has {len(drawn)} items now, and {self._emitted} of it had been yielded: the inner "
                "iterator must give the same items at each run. Restore the data that it reads, or start without the state"
            )
        if not drawn:
            return []
        order = permutation(self._state.seed, self._number, len(drawn))[self._emitted :]
        return [drawn[i] for i in order[::-1].tolist()]


def _giving(state: IteratorState) -> Callable[[], IteratorState]:
    # A function that does not hold the iterator. With a reference cycle, block and files would wait for the collector.
    return lambda: state
