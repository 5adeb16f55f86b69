"""Documents' tokens -> sequences of a fixed number of patches or tokens, in a random order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._position_digest import DrawnAgain, Witness
from asyncprefetch.iterators._random import Seed, permutation
from asyncprefetch.iterators._stage import state_of
from asyncprefetch.iterators.text._blocks import Block, draw_blocks, ended
from asyncprefetch.iterators.text._tokens import TokenSequence

__all__ = ["SequenceIterator", "SequenceState", "TokenSequence"]


class SequenceState(IteratorState, kind="asyncprefetch.sequences", frozen=True):
    """Where to start drawing again, where from there the block in progress begins, and how far it got.

    No token is kept. A unit is a patch, or, of tokens without patches, a token.

    Attributes:
        inner: the anchor: the state of the tokens before the document in which the block begins, or an earlier one.
        offset: the number of units between the anchor and the one whose last token is the block's first context.
        block: number of the block.
        emitted: how many sequences of the block have been yielded.
        witness: digest of where the tokens stand behind the last document that was drawn for what has been yielded,
            against which that is checked when it is drawn again; empty: nothing is, or nothing is known.
        sequence_length: patches or targets a sequence.
        buffer_size: sequences a block.
        seed: of the permutations.
        drop_last: whether a last sequence that is incomplete is left out.
    """

    inner: IteratorState
    offset: Position[NonNegativeInt] = 0
    block: Position[NonNegativeInt] = 0
    emitted: Position[NonNegativeInt] = 0
    witness: Position[str] = ""
    sequence_length: PositiveInt
    buffer_size: PositiveInt
    seed: Seed
    drop_last: bool

    def build(self) -> SequenceIterator:
        """The iterator in the midst of its block, which it draws again."""
        iterator = SequenceIterator.__new__(SequenceIterator)
        iterator._resume(self)
        return iterator


class SequenceIterator(StatefulIterator[TokenSequence]):
    """Joins documents' tokens into one stream, cuts it into sequences, and shuffles these block by block.

    With patches, a sequence has ``P = sequence_length`` patches. The first is a single token, the context: the last
    token of the sequence before it in the stream; for the first sequence, the first token of the stream. The other
    ``P - 1`` are the next patches of the stream. (If the stream's first patch is longer than one token, it is split
    behind its first.) Without patches, a sequence is a token of context and the next ``sequence_length`` tokens.

    So with ``x = tokens[:-1]`` and ``y = tokens[1:]`` each token of the stream but the first is a target exactly once.
    The last sequence may be shorter, and comes too unless ``drop_last``. A stream of one token has no sequence.

    A block is ``buffer_size`` sequences in a row: block ``b`` is yielded in the order of a permutation that is a
    function of ``(seed, b)`` and its size alone. The last block may be smaller. With ``buffer_size=1`` the order is that
    of the stream. Looping over this iterator repeats the same order; over the documents, it goes on shuffling anew.

    Resuming draws the block in progress again: its tokens, the rest of the document in which it begins, up to some
    65,536 tokens before that, and the whole of the last document drawn, however long these documents are.

    The tokens of a sequence are part of an array that its whole block shares, and of the documents' dtype; patch
    lengths are int64. The arrays that are drawn are kept until their block is complete: nothing may write to them.

    Args:
        tokens: yields 1-D arrays of integers, or :class:`TokenSequence`, either all with patches or all without; empty
            ones are allowed. The object itself is only asked for its state.
        sequence_length: with patches: patches a sequence, from 2, the context included. Without: targets, from 1.
        buffer_size: sequences a block, from 1.
        seed: of the order, from 0, below 2**64.
        drop_last: leave out the last sequence if it is incomplete.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        tokens: StatefulIterator[npt.NDArray[Any] | TokenSequence] | StatefulIterator[TokenSequence],
        *,
        sequence_length: int,
        buffer_size: int = 1,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        self._resume(
            SequenceState(
                inner=state_of(tokens, "SequenceIterator's tokens"),
                sequence_length=sequence_length,
                buffer_size=buffer_size,
                seed=seed,
                drop_last=drop_last,
            )
        )

    def _resume(self, state: SequenceState) -> None:
        self._state = state
        # The place, where it is not that in the state: a new state a sequence would cost more than to cut a small one.
        self._inner, self._offset, self._block, self._emitted = state.inner, state.offset, state.block, state.emitted
        self._witness = Witness(state.witness)

    def get_state(self) -> SequenceState:
        """Where the block in progress begins, and how many of its sequences were yielded."""
        place = {
            "inner": self._inner,
            "offset": self._offset,
            "block": self._block,
            "emitted": self._emitted,
            "witness": self._witness.digest(),
        }
        return self._state.model_copy(update=place)

    def create_iter(self) -> Iterator[TokenSequence]:
        """The sequences that are still to come: the block in progress is drawn again from the anchor.

        Raises:
            DocumentError: what is drawn again is not what it was.
            TypeError: an item is neither a 1-D array of integers nor a ``TokenSequence`` of such.
            ValueError: patch lengths do not fit their tokens, or come with some items only; or the tokens end before the
                place from which to go on.
        """
        state = self.get_state()
        emitted = state.emitted
        with DrawnAgain(bool(state.block or emitted), state.witness) as drawn_again:

            def at_place(source: StatefulIterator[Any]) -> None:
                if not emitted:  # else all of the block was drawn before
                    drawn_again.over(source.get_state)

            for block in draw_blocks(
                state.inner,
                offset=state.offset,
                number=state.block,
                at_place=at_place,
                sequence_length=state.sequence_length,
                buffer_size=state.buffer_size,
                drop_last=state.drop_last,
            ):
                drawn_again.over(block.source.get_state)
                yield from self._emit(block, emitted)
                emitted = 0
        if emitted:
            raise ended()
        self._witness.forget()  # nothing is to come of what would be drawn again

    def _emit(self, block: Block, emitted: int) -> Iterator[TokenSequence]:
        """The sequences of a block behind the first ``emitted``."""
        count = block.count
        if emitted > count:
            raise ended()
        order = permutation(self._state.seed, self._block, count).tolist() if count > 1 else [0]
        if emitted < count:
            self._witness.is_of(block.source.get_state)
        for place in range(emitted + 1, count + 1):
            if place == count and block.anchor is not None:
                # At once, and not when the next is asked for: the state is to be that of the next block's begin.
                self._inner, self._offset = block.anchor, block.offset
                self._block, self._emitted = self._block + 1, 0
            else:
                self._emitted = place
            yield block.cut(order[place - 1])
        self._witness.goes_on()
