"""Documents' tokens -> sequences of a fixed number of patches or tokens, in a random order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.iterators._position_digest import DrawnAgain, PositionDigest
from asyncprefetch.iterators._random import Seed, permutation
from asyncprefetch.iterators._stage import state_of
from asyncprefetch.iterators.text._blocks import Block, draw_blocks, ended
from asyncprefetch.iterators.text._tokens import TokenSequence

__all__ = ["SequenceIterator", "SequenceState", "TokenSequence"]


class SequenceState(IteratorState, kind="asyncprefetch.sequences", frozen=True):
    """The anchor from which to draw again, where the current block begins, and how many of its sequences were yielded.

    It holds no tokens. A unit is a patch or, without patches, a token.

    Attributes:
        inner: the anchor: the state of the tokens before the document in which the block begins, or an earlier one.
        offset: the number of units between the anchor and the one whose last token is the block's first context.
        block: the number of the block.
        emitted: how many sequences of the block were yielded.
        witness: the digest of the tokens' position after the last document that was drawn for the yielded sequences. A
            resume that draws the document again compares it. Empty: nothing is drawn again, or the digest is unknown.
        sequence_length: patches or targets in a sequence.
        buffer_size: sequences in a block.
        seed: the seed of the permutations.
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
        """Return the iterator within the current block, which it draws again."""
        iterator = SequenceIterator.__new__(SequenceIterator)
        iterator._resume(self)
        return iterator


class SequenceIterator(StatefulIterator[TokenSequence]):
    """Joins the tokens of documents into one stream, cuts it into sequences, and shuffles these block by block.

    With patches, a sequence has ``P = sequence_length`` patches. The first is a single token, the context: the last
    token of the sequence before it in the stream; for the first sequence, the first token of the stream. The other
    ``P - 1`` are the next patches of the stream. (If the stream's first patch is longer than one token, it is split
    after its first token.) Without patches, a sequence is a token of context and the next ``sequence_length`` tokens.

    So with ``x = tokens[:-1]`` and ``y = tokens[1:]``, each token of the stream except the first is a target exactly once.
    The last sequence may be shorter; ``drop_last`` leaves it out. A stream of one token has no sequence.

    A block is ``buffer_size`` consecutive sequences. Block ``b`` is yielded in the order of a permutation that only depends
    on ``(seed, b)`` and the block's size. The last block may be smaller. With ``buffer_size=1`` the order is that of the
    stream. A :class:`LoopingIterator` around this iterator repeats the same order; one around the documents does not.

    Resuming draws the current block again: its tokens, the rest of the document in which it begins, up to about 65,536
    tokens before that, and the whole last document, however long these documents are.

    The tokens of a sequence are a view of an array that its block shares, with the documents' dtype; patch lengths are
    int64. The arrays that are drawn are kept until their block is complete: nothing may write to them.

    Args:
        tokens: yields 1-D arrays of integers, or :class:`TokenSequence`, either all with patches or all without; they may be
            empty. Only its state is used; the object itself is not advanced.
        sequence_length: with patches, the patches in a sequence, from 2, the context included; without, the targets, from 1.
        buffer_size: sequences in a block, from 1.
        seed: the seed of the order, from 0, below 2**64.
        drop_last: leave out the last sequence if it is incomplete.

    Raises:
        ValueError: an argument is out of range.
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
        # The current position. It is not kept in a new state for each sequence: that costs more than cutting a small one.
        self._inner, self._offset, self._block, self._emitted = state.inner, state.offset, state.block, state.emitted
        self._position_digest = PositionDigest(state.witness)

    def get_state(self) -> SequenceState:
        """Return where the current block begins, and how many of its sequences were yielded."""
        place = {
            "inner": self._inner,
            "offset": self._offset,
            "block": self._block,
            "emitted": self._emitted,
            "witness": self._position_digest.digest(),
        }
        return self._state.model_copy(update=place)

    def create_iter(self) -> Iterator[TokenSequence]:
        """Return an iterator over the sequences that were not yielded yet. It draws the current block from the anchor.

        Raises:
            DocumentError: the data that is drawn again has changed.
            TypeError: an item is neither a 1-D array of integers nor a ``TokenSequence`` with one.
            ValueError: patch lengths do not fit their tokens, or only some items have them; or the tokens end before the
                position from which to continue.
        """
        state = self.get_state()
        emitted = state.emitted
        with DrawnAgain(bool(state.block or emitted), state.witness) as drawn_again:

            def at_place(source: StatefulIterator[Any]) -> None:
                if not emitted:  # otherwise the whole block was drawn before
                    drawn_again.check(source.get_state)

            for block in draw_blocks(
                state.inner,
                offset=state.offset,
                number=state.block,
                at_place=at_place,
                sequence_length=state.sequence_length,
                buffer_size=state.buffer_size,
                drop_last=state.drop_last,
            ):
                drawn_again.check(block.source.get_state)
                yield from self._emit(block, emitted)
                emitted = 0
        if emitted:
            raise ended()
        self._position_digest.forget()  # a resume from here yields nothing

    def _emit(self, block: Block, emitted: int) -> Iterator[TokenSequence]:
        """Yield the sequences of a block after the first ``emitted``."""
        count = block.count
        if emitted > count:
            raise ended()
        order = permutation(self._state.seed, self._block, count).tolist() if count > 1 else [0]
        if emitted < count:
            self._position_digest.set_source(block.source.get_state)
        for place in range(emitted + 1, count + 1):
            if place == count and block.anchor is not None:
                # Now, and not when the next is drawn: at this yield, the state is that of the beginning of the next block.
                self._inner, self._offset = block.anchor, block.offset
                self._block, self._emitted = self._block + 1, 0
            else:
                self._emitted = place
            yield block.cut(order[place - 1])
        self._position_digest.advance()
