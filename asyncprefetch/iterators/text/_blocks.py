"""A stream of documents' tokens in blocks of sequences: how :class:`SequenceIterator` draws, and from where again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncprefetch.base import IteratorState, StatefulIterator
from asyncprefetch.iterators.text._tokens import (
    ANCHOR_EVERY,
    Array,
    Checked,
    Origin,
    TokenSequence,
    check,
    join,
    split_first,
)


@dataclass(slots=True, eq=False)
class Block:
    """A run of the stream: a token of context, and sequences of ``units`` units, the last one maybe of fewer.

    Attributes:
        tokens: all of them, and maybe more behind them.
        lengths: of the patches behind the context, or ``None``.
        borders: where in ``tokens`` the context of each sequence lies, and the last token of the last.
        units: patches or tokens a sequence, without its context.
        starts: at which units, counted from the first behind the context, the parts of documents begin.
        origins: of these documents.
        anchor: the state from which to draw the next block; ``None``: what is left of the stream is all in this one.
        offset: how many units behind the anchor the next one begins.
        source: what the documents are drawn from: behind the last one of the block, until the next block is drawn.
    """

    tokens: Array
    lengths: npt.NDArray[np.int64] | None
    borders: list[int]
    units: int
    starts: list[int]
    origins: list[Origin]
    anchor: IteratorState | None
    offset: int
    source: StatefulIterator[Any]

    @property
    def count(self) -> int:
        """How many sequences there are."""
        return len(self.borders) - 1

    def cut(self, number: int) -> TokenSequence:
        """One of them, counted in the order of the stream."""
        tokens = self.tokens[self.borders[number] : self.borders[number + 1] + 1]
        origin = self.origins[bisect_right(self.starts, number * self.units) - 1]
        if self.lengths is None:
            return TokenSequence(tokens, None, *origin)
        part = self.lengths[number * self.units : (number + 1) * self.units]
        lengths = np.empty(part.size + 1, np.int64)
        lengths[0] = 1
        lengths[1:] = part
        return TokenSequence(tokens, lengths, *origin)


def ended() -> ValueError:
    """The error for a stream that became shorter."""
    return ValueError(
        "the tokens ended before the place where the sequences were to go on: they must be the same at each run. Bring "
        "back what they are made of, or start anew"
    )


def draw_blocks(
    inner: IteratorState,
    *,
    offset: int,
    number: int,
    at_place: Callable[[StatefulIterator[Any]], None],
    sequence_length: int,
    buffer_size: int,
    drop_last: bool,
) -> Iterator[Block]:
    """The blocks from ``number`` on, which begins ``offset`` units behind the anchor ``inner``.

    A unit is a patch or, without patches, a token. A block begins at the unit whose last token is its context.
    ``at_place`` is called with what is built of ``inner`` when that stands behind the document with that unit.

    Raises:
        TypeError: an item holds no tokens.
        ValueError: patch lengths do not fit, or come with some items only; or the stream ends before the place.
    """
    source = inner.build()
    # Units are counted from where this generator began to draw. Where an anchor lies follows from the one before it and
    # from the documents, never from where drawing began: so a state is the same whoever gets there.
    anchor, place = inner, 0
    drawn = fresh = 0  # units; and tokens and documents since the last anchor
    begin = offset
    patched: bool | None = None
    filling: _Filling | None = None  # none before the place from which to go on
    size = units = 0
    stream_begins = False

    for item in source.create_iter():
        document = check(item, "SequenceIterator")
        fresh += document.tokens.size + 1  # empty documents, too, take time to draw again
        if patched is None:
            patched = document.lengths is not None
            units = sequence_length - patched
            if not units:
                raise ValueError("with patches, sequence_length must be at least 2: the first patch is the context")
            size = units * buffer_size
            stream_begins = offset == number * size
        elif patched != (document.lengths is not None):
            raise ValueError("some items have patch lengths and others have none: a stream must be of one kind")
        if stream_begins and document.lengths is not None and document.tokens.size:
            document, stream_begins = document._replace(lengths=split_first(document.lengths)), False
        n = document.tokens.size if document.lengths is None else document.lengths.size
        unit = 0
        if filling is None and begin < drawn + n:
            at_place(source)
            unit = begin - drawn + 1
            filling = _Filling(size, document, unit)
        if filling is not None and n:
            while unit < n:
                unit = filling.take(document, unit, n)
                if not filling.missing:
                    begin += size
                    yield filling.block(size, units, anchor, begin - place, source)
            filling.leave(document)
        drawn += n
        if fresh >= ANCHOR_EVERY:
            anchor, place, fresh = source.get_state(), drawn, 0
    if filling is None:
        if number:
            raise ended()
        return
    left = size - filling.missing
    if drop_last:
        left -= left % units
    if left:
        yield filling.block(left, units, None, 0, source)


class _Filling:
    """The block in progress: what the documents so far have given to it."""

    def __init__(self, size: int, document: Checked, unit: int) -> None:
        """Begin behind ``unit`` units of ``document``."""
        before = unit if document.lengths is None else int(document.lengths[:unit].sum())
        self.missing = self._size = size
        self._parts: list[Array] = []
        self._lengths: list[Array] = []
        self._starts: list[int] = []  # of the parts, in units of the block
        self._origins: list[Origin] = []
        # Where the next part begins in the current document. The first part of a block begins with the context, so that
        # a block that lies within one document is one part, and is not copied.
        self._first = before - 1

    def take(self, document: Checked, unit: int, n: int) -> int:
        """Add units of ``document`` from ``unit`` on, up to its ``n`` units or the block's end. Gives where it stopped."""
        end = min(n, unit + self.missing)
        self._starts.append(self._size - self.missing)
        self._origins.append(document.origin)
        if document.lengths is None:
            last = end
        else:
            lengths = document.lengths[unit:end]
            self._lengths.append(lengths)
            context = not self._parts
            last = document.tokens.size if end == n else self._first + context + int(lengths.sum())
        self._parts.append(document.tokens[self._first : last])
        self._first = last
        self.missing -= end - unit
        return end

    def leave(self, document: Checked) -> None:
        """Go on with another document behind this one, which is not empty."""
        if not self._parts:
            self._parts.append(document.tokens[-1:])
        self._first = 0

    def block(
        self, size: int, units: int, anchor: IteratorState | None, offset: int, source: StatefulIterator[Any]
    ) -> Block:
        """The block of the first ``size`` units. The next one begins behind what was taken."""
        tokens, borders = join(self._parts), [*range(0, size, units), size]
        lengths = None
        if self._lengths:
            lengths = join(self._lengths)[:size]
            borders = [0, *np.add.reduceat(lengths, borders[:-1]).cumsum().tolist()]
        block = Block(tokens, lengths, borders, units, self._starts, self._origins, anchor, offset, source)
        self.missing, self._parts, self._lengths, self._starts, self._origins = self._size, [], [], [], []
        self._first -= 1
        return block
