"""Blocks of sequences: how :class:`SequenceIterator` draws tokens, and from where a resume draws them again."""

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
    """A part of the stream: a token of context, then sequences of ``units`` units. The last one may have fewer.

    Attributes:
        tokens: the tokens; there may be more after the last sequence.
        lengths: the lengths of the patches after the context, or ``None``.
        borders: the index in ``tokens`` of the context of each sequence, and of the last token of the last sequence.
        units: patches or tokens in a sequence, without its context.
        starts: the units, counted from the first after the context, at which the parts of documents begin.
        origins: the origins of these documents.
        anchor: the state from which to draw the next block; ``None``: this block is the last.
        offset: how many units after the anchor the next block begins.
        source: the iterator that gives the documents. Until the next block is drawn, its position is the end of this one.
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
        """The number of sequences."""
        return len(self.borders) - 1

    def cut(self, number: int) -> TokenSequence:
        """Return one sequence; ``number`` counts in the order of the stream."""
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
    """Return the error for a stream that became shorter."""
    return ValueError(
        "the tokens ended before the position from which the sequences continue: they must be the same at each run. "
        "Restore the data that they are made from, or start without the state"
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
    """Yield the blocks from ``number`` on. That block begins ``offset`` units after the anchor ``inner``.

    A unit is a patch or, without patches, a token. A block begins at the unit whose last token is its context.
    ``at_place`` is called with the iterator that is built from ``inner``, after it has given the document with that unit.

    Raises:
        TypeError: an item holds no tokens.
        ValueError: patch lengths do not fit, or only some items have them; or the stream ends before that position.
    """
    source = inner.build()
    # Units are counted from where this generator began to draw. The place of an anchor depends on the one before it and on
    # the documents, never on where drawing began: so a state is the same in a resumed run and in an uninterrupted one.
    anchor, place = inner, 0
    drawn = fresh = 0  # units; and tokens and documents since the last anchor
    begin = offset
    patched: bool | None = None
    filling: _Filling | None = None  # None: before the position from which to continue
    size = units = 0
    stream_begins = False

    for item in source:
        document = check(item, "SequenceIterator")
        fresh += document.tokens.size + 1  # drawing an empty document again takes time too
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
    """The current block: the parts that the documents so far have contributed."""

    def __init__(self, size: int, document: Checked, unit: int) -> None:
        """Begin after ``unit`` units of ``document``."""
        before = unit if document.lengths is None else int(document.lengths[:unit].sum())
        self.missing = self._size = size
        self._parts: list[Array] = []
        self._lengths: list[Array] = []
        self._starts: list[int] = []  # the beginnings of the parts, in units of the block
        self._origins: list[Origin] = []
        # Where the next part begins in the current document. The first part of a block includes the context, so that a
        # block within one document is one part, and is not copied.
        self._first = before - 1

    def take(self, document: Checked, unit: int, n: int) -> int:
        """Add units of ``document`` from ``unit`` on, until ``n`` or the end of the block. Return where it stopped."""
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
        """Note that ``document``, which is not empty, is used up."""
        if not self._parts:
            self._parts.append(document.tokens[-1:])
        self._first = 0

    def block(
        self, size: int, units: int, anchor: IteratorState | None, offset: int, source: StatefulIterator[Any]
    ) -> Block:
        """Return the block of the first ``size`` units. The next block begins after the units that were taken."""
        tokens, borders = join(self._parts), [*range(0, size, units), size]
        lengths = None
        if self._lengths:
            lengths = join(self._lengths)[:size]
            borders = [0, *np.add.reduceat(lengths, borders[:-1]).cumsum().tolist()]
        block = Block(tokens, lengths, borders, units, self._starts, self._origins, anchor, offset, source)
        self.missing, self._parts, self._lengths, self._starts, self._origins = self._size, [], [], [], []
        self._first -= 1
        return block
