"""A random order, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

from pydantic import Field, NonNegativeInt

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._position_digest import DrawnAgain, Witness
from asyncprefetch.iterators._random import Seed, permutation
from asyncprefetch.iterators._stage import state_of

T = TypeVar("T")


class ShuffleState(IteratorState, kind="asyncprefetch.shuffle", frozen=True):
    """Where the block in progress begins, and how much of it was yielded.

    No items are held: the order of a block is a function of the seed and of the number of the block. To restore it, the
    block in progress is drawn again.

    Attributes:
        inner: the state of the inner iterator before the first item of the block.
        buffer_size: items a block.
        seed: of all blocks.
        block: the number of the block in progress, from 0.
        emitted: how many of its items were yielded; always fewer than it has.
        witness: digest of where the inner iterator stands behind the block, against which that is checked when the block
            is drawn again; empty: nothing is, or nothing is known.
    """

    inner: IteratorState
    buffer_size: int = Field(ge=1, lt=1 << 63)
    seed: Seed
    block: Position[NonNegativeInt] = 0
    emitted: Position[NonNegativeInt] = 0
    witness: Position[str] = ""

    def build(self) -> ShuffleIterator[Any]:
        """The iterator, in the midst of its block."""
        iterator: ShuffleIterator[Any] = ShuffleIterator.__new__(ShuffleIterator)
        iterator._resume(self)
        return iterator


class ShuffleIterator(StatefulIterator[T]):
    """Takes ``buffer_size`` items at a time, and yields each such block in a random order of its own.

    So an item moves by less than ``buffer_size`` places, and as long as it is not yielded, it is in memory. Around a
    :class:`LoopingIterator`, each epoch has another order, and the last items of one may mix with the first of the next;
    within one, each epoch has the same.

    Args:
        inner: what to draw items from; it must not use the memory of an item again after the yield. The object itself
            is only asked for its state.
        buffer_size: items a block, from 1, which is no shuffle, below 2**63.
        seed: from 0, below 2**64. The order is a function of the seed and of the number of items, on every platform. Two
            shuffles one around the other need two seeds: with one, both permute a block alike.

    Raises:
        TypeError: ``inner`` is no stateful iterator.
        ValueError: ``buffer_size`` or ``seed`` is out of range.
    """

    def __init__(self, inner: StatefulIterator[T], *, buffer_size: int, seed: int = 0) -> None:
        self._resume(ShuffleState(inner=state_of(inner, "ShuffleIterator's inner"), buffer_size=buffer_size, seed=seed))

    def _resume(self, state: ShuffleState) -> None:
        self._state = state
        # The block in progress: where it begins, its number, how much of it was yielded, and what is left, the next last.
        self._anchor, self._number, self._emitted = state.inner, state.block, state.emitted
        self._block: list[T] = []
        self._following = state.inner  # where the next block begins
        self._witness = Witness(state.witness)  # of that place
        # Stands behind the block in progress; ``None`` as long as that one is still to be drawn.
        self._inner: StatefulIterator[T] | None = None

    def get_state(self) -> ShuffleState:
        """The beginning of the block in progress, and the place in it."""
        place = {"inner": self._anchor, "block": self._number, "emitted": self._emitted}
        return self._state.model_copy(update={**place, "witness": self._witness.digest()})

    def create_iter(self) -> Iterator[T]:
        """The rest of the block in progress, then the blocks after it.

        Raises:
            DocumentError: the block in progress, drawn again, is not what it was.
            ValueError: the inner iterator ended before the place from which to go on.
        """
        inner = self._anchor.build() if self._inner is None else self._inner
        items = iter(inner.create_iter())
        while True:
            if not self._block:
                # What is drawn for a block that is never completed is drawn again, from the anchor.
                self._inner = None
                with DrawnAgain(self._emitted > 0, self._witness.digest()) as drawn_again:
                    block = self._draw(items)
                    if not block:
                        return
                    drawn_again.over(inner.get_state)
                self._block, self._inner, self._following = block, inner, inner.get_state()
                self._witness.is_of(_giving(self._following))
            block = self._block
            while len(block) > 1:
                # Counted before the yield: at the yield the state is that after this item.
                self._emitted += 1
                yield block.pop()
            # At the last item the state is that of the next block already; else this one would be drawn again for nothing.
            self._anchor, self._number, self._emitted = self._following, self._number + 1, 0
            self._witness.forget()
            yield block.pop()

    def _draw(self, items: Iterator[T]) -> list[T]:
        """What is left of the block in progress, in reverse order; empty at the end of the stream."""
        drawn = list(islice(items, self._state.buffer_size))
        if self._emitted and len(drawn) <= self._emitted:
            raise ValueError(
                f"block {self._number} has {len(drawn)} items now, and {self._emitted} of it had been yielded: the inner "
                "iterator must give the same items at each run. Bring back what it reads, or start anew"
            )
        if not drawn:
            return []
        order = permutation(self._state.seed, self._number, len(drawn))[self._emitted :]
        return [drawn[i] for i in order[::-1].tolist()]


def _giving(state: IteratorState) -> Callable[[], IteratorState]:
    # Without the iterator in it: else that would refer to itself, and its block and files would wait for the collector.
    return lambda: state
