"""Arrays of tokens, or sequences -> batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, NonNegativeInt, PositiveInt

from asyncprefetch._worker import counters
from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.batch import Batch
from asyncprefetch.iterators._position_digest import DrawnAgain, PositionDigest
from asyncprefetch.iterators._stage import state_of
from asyncprefetch.iterators.text._rows import (
    OnTooLong,
    RowTooLongError,
    Shape,
    fit,
    patch_batch,
    stream_batch,
    token_batch,
)
from asyncprefetch.iterators.text._tokens import ANCHOR_EVERY, Checked, PatchedTokens, TokenSequence, check

__all__ = ["PackingIterator", "PackingState", "RowTooLongError"]


class PackingState(IteratorState, kind="asyncprefetch.packing", frozen=True):
    """The anchor from which to draw again, and how many tokens to skip.

    It holds no tokens, so its size does not depend on the length of documents. A resume in a stream of arrays draws the
    current document again, and at most about 65,536 tokens before it. A resume in a stream of sequences draws nothing again.

    Attributes:
        inner: the state after the last row, in a stream of sequences. In a stream of arrays, the anchor: the state of the
            token iterator before the current document or an earlier one.
        offset: the number of tokens between the anchor and the next row.
        witness: the digest of the token iterator's position after the document with the last token of the last batch, in a
            stream of arrays. A resume that draws the document again compares it. Empty: nothing is drawn again, or the
            digest is unknown.
        sequences: whether the items are sequences.
        patches: whether the sequences have patches; ``None``: not known yet.
        batch_size: rows in a batch.
        sequence_length: targets in a row, or patches if there are any.
        pad_id: the token in positions without a real target.
        max_length: the largest number of inputs of a row with patches, or ``None``.
        pad_to_max_length: whether all rows with patches have that length.
        on_too_long: what to do with longer rows.
        drop_last: whether a last batch that is not full is left out.
        ngram_sizes: the sizes of the n-grams that get ids.
        ngram_table_size: the largest possible id plus one.
    """

    inner: IteratorState
    offset: Position[NonNegativeInt] = 0
    witness: Position[str] = ""
    sequences: Position[bool] = False
    patches: Position[bool | None] = None
    batch_size: PositiveInt
    sequence_length: PositiveInt
    pad_id: int = Field(ge=-(1 << 63), lt=1 << 63)
    max_length: PositiveInt | None = None
    pad_to_max_length: bool = False
    on_too_long: OnTooLong = "truncate"
    drop_last: bool = False
    ngram_sizes: tuple[PositiveInt, ...] = ()
    ngram_table_size: int = Field(50_000, ge=1, le=1 << 63)

    def build(self) -> PackingIterator:
        """Return the iterator whose next row begins ``offset`` tokens after the anchor."""
        iterator = PackingIterator.__new__(PackingIterator)
        iterator._resume(self)
        return iterator


class PackingIterator(StatefulIterator[Batch]):
    """Makes batches from arrays of tokens, which it joins and cuts into rows, or from sequences, each of which is a row.

    **Arrays** (1-D, of integers) are joined into one stream ``t[0], t[1], ...``. With ``L = sequence_length``, row ``r`` of
    the whole stream is::

        x = t[r*L     : r*L + L]
        y = t[r*L + 1 : r*L + L + 1]

    so the last target of a row is the first input of the next. Every token except the first is a target exactly once; every
    token except the last is an input exactly once. Only the tokenizer's bos and eos mark the borders between documents. In
    the last batch, the rest of the stream fills the first positions.

    **Sequences** (:class:`TokenSequence`): ``x = tokens[:-1]`` and ``y = tokens[1:]`` are one row. The last batch may have
    missing rows. A sequence with fewer than two tokens has no target, and is skipped.

    *Without patches* a row has at most ``sequence_length`` targets.

    *With patches* it has at most ``sequence_length`` patches, and ``patch_lengths`` has the shape ``(batch_size,
    sequence_length)``. The lengths of a row sum to the number of its targets plus one, and the first is 1: if the first
    patch of a sequence is longer, it is split after its first token. Zeros follow the last patch, and a missing row has
    a single patch of length 1. Rows are as long as the longest of the batch. A row longer than ``max_length`` is cut
    there, and so are its patches. With ``pad_to_max_length``, all rows have the length ``max_length``.

    A batch has ``batch_size`` rows: ``x``, ``y`` and ``patch_lengths`` are int64 and ``mask`` is bool, of shape
    ``(batch_size, row length)``, in new memory. The mask is true exactly where there is a real target. Where it is
    false, ``x`` and ``y`` hold ``pad_id``. A stream without a target has no batch.

    Args:
        source: yields 1-D arrays of integers, or :class:`TokenSequence`; they may be empty. All items are of one kind,
            and all have patches or none has. Only its state is used; the object itself is not advanced. Rows that are
            drawn are kept until their batch is complete: nothing may write to them.
        batch_size: rows in a batch, from 1.
        sequence_length: targets in a row or, with patches, patches in a row, from 1.
        max_length: the largest number of inputs of a row with patches, from 1; ``None``: no limit. Without patches it has no
            effect.
        pad_to_max_length: give all rows with patches the length ``max_length``.
        pad_id: the token in positions without a real target.
        on_too_long: what to do with a row longer than ``max_length``. ``"truncate"`` cuts it; the loader's statistics
            count the lost targets as ``"targets cut off"``. ``"raise"`` raises. ``"skip"`` skips every sequence with
            too many inputs, targets or patches, and counts it as ``"sequences skipped"``.
        drop_last: leave out the last batch if it is not full.
        ngram_sizes: for each of these ``n``, ``ngram_ids`` has the ids of the n-grams that end at each position of
            ``x``, see :func:`ngram_ids`: int64 of shape ``(len(ngram_sizes), batch_size, row length)``.
        ngram_table_size: ids are below this number.

    Raises:
        ValueError: a size is below 1, or ``pad_to_max_length`` lacks ``max_length``.
    """

    def __init__(
        self,
        source: StatefulIterator[npt.NDArray[Any] | TokenSequence]
        | StatefulIterator[npt.NDArray[Any]]
        | StatefulIterator[TokenSequence],
        *,
        batch_size: int,
        sequence_length: int,
        max_length: int | None = None,
        pad_to_max_length: bool = False,
        pad_id: int = 0,
        on_too_long: OnTooLong = "truncate",
        drop_last: bool = False,
        ngram_sizes: Sequence[int] = (),
        ngram_table_size: int = 50_000,
    ) -> None:
        if pad_to_max_length and max_length is None:
            raise ValueError("pad_to_max_length needs a max_length")
        self._resume(
            PackingState(
                inner=state_of(source, "PackingIterator's source"),
                batch_size=batch_size,
                sequence_length=sequence_length,
                pad_id=pad_id,
                max_length=max_length,
                pad_to_max_length=pad_to_max_length,
                on_too_long=on_too_long,
                drop_last=drop_last,
                ngram_sizes=tuple(ngram_sizes),
                ngram_table_size=ngram_table_size,
            )
        )

    def _resume(self, state: PackingState) -> None:
        self._state = state
        # For arrays, the current position. It is not kept in a new state for each batch: that costs as much as a small
        # batch.
        self._place: tuple[IteratorState, int] | None = None
        self._position_digest = PositionDigest(state.witness)
        # For sequences, the iterator to draw from, and the rows of a batch that is not complete.
        self._sequences: StatefulIterator[Any] | None = None
        self._rows: list[Checked] = []
        self._patches = state.patches
        self._failed = False  # within a batch

    def get_state(self) -> PackingState:
        """Return where the row after the last batch begins.

        Raises:
            RuntimeError: drawing sequences failed within a batch, so what was drawn of it is in no state.
        """
        self._check()
        if self._sequences is not None:
            return self._state.model_copy(update={"inner": self._sequences.get_state(), "patches": self._patches})
        if self._place is None:
            return self._state.model_copy(update={"witness": self._position_digest.digest()})
        inner, offset = self._place
        return self._state.model_copy(
            update={"inner": inner, "offset": offset, "witness": self._position_digest.digest()}
        )

    def create_iter(self) -> Iterator[Batch]:
        """Return an iterator over the batches that were not yielded yet.

        Raises:
            DocumentError: the arrays that are drawn again have changed.
            RowTooLongError: a sequence has more targets or patches than ``sequence_length``, or, with
                ``on_too_long="raise"``, more than ``max_length`` inputs. The message names file and row of the document
                with its beginning. Not with ``on_too_long="skip"``.
            TypeError: an item is neither a 1-D array of integers nor a ``TokenSequence`` with one, or there are items
                of both kinds.
            ValueError: patch lengths do not fit their tokens, or only some items have them; or the tokens end before the
                position from which to continue.
        """
        self._check()
        if self._sequences is not None:
            yield from self._pack_sequences(iter(self._sequences))
            return
        state = self.get_state()
        source = state.inner.build()
        items = iter(source)
        if state.sequences:
            self._sequences = source
            yield from self._pack_sequences(items)
            return
        within_stream = bool(state.offset or state.witness)
        with DrawnAgain(within_stream, state.witness) as drawn_again:
            for first in items:  # it determines the kind of all items
                if isinstance(first, TokenSequence) and not within_stream:
                    self._state, self._sequences = state.model_copy(update={"sequences": True}), source
                    yield from self._pack_sequences(chain([first], items))
                else:
                    yield from self._pack_stream(chain([first], items), source, state, drawn_again)
                return
        _check_reached(state.offset)

    def _pack_stream(
        self, items: Iterable[Any], source: StatefulIterator[Any], state: PackingState, drawn_again: DrawnAgain
    ) -> Iterator[Batch]:
        # Positions in the stream are counted from where this generator began to draw. An anchor is not taken at each
        # document: asking a long chain for its state costs more than packing a short document.
        anchors = deque([(0, state.inner)])
        drawn, begin, skip = 0, state.offset, state.offset
        shape = _shape(state)
        # It has the tokens' dtype, which is faster to copy than the batch's; int64 if there are several dtypes.
        window: npt.NDArray[Any] = np.empty(0)
        fresh = 0  # tokens and documents since the last anchor; drawing an empty document again takes time too
        filled = 0  # window[:filled] is the stream from ``begin`` on

        for item in items:
            if isinstance(item, TokenSequence):
                raise TypeError(_MIXED)
            tokens = check(item, "PackingIterator").tokens
            drawn += tokens.size
            fresh += tokens.size + 1
            rest = tokens[skip:]
            skip -= tokens.size - rest.size
            if rest.size:
                drawn_again.check(source.get_state)
            if tokens.dtype != window.dtype:
                window = _as_window(window, tokens.dtype, state.batch_size * state.sequence_length + 1)
            while rest.size:
                part, rest = rest[: window.size - filled], rest[window.size - filled :]
                window[filled : filled + part.size] = part
                filled += part.size
                if filled == window.size:
                    begin += filled - 1
                    batch = stream_batch(window, shape)
                    self._go_to(begin, anchors)
                    self._position_digest.set_source(source.get_state)
                    yield batch
                    self._position_digest.advance()
                    window[0], filled = window[-1], 1
            if fresh >= ANCHOR_EVERY:
                anchors.append((drawn, source.get_state()))
                fresh = 0
        _check_reached(skip)
        self._position_digest.forget()  # a resume from here yields nothing
        if filled > 1 and not state.drop_last:
            self._go_to(begin + filled - 1, anchors)
            yield stream_batch(window[:filled], shape)

    def _go_to(self, begin: int, anchors: deque[tuple[int, IteratorState]]) -> None:
        while len(anchors) > 1 and anchors[1][0] <= begin:
            anchors.popleft()
        place, inner = anchors[0]
        self._place = inner, begin - place

    def _pack_sequences(self, items: Iterable[Any]) -> Iterator[Batch]:
        state, rows, shape = self._state, self._rows, _shape(self._state)
        try:
            for item in items:
                self._add(item, shape)
                if len(rows) == state.batch_size:
                    batch = _row_batch(rows, shape)
                    rows.clear()
                    yield batch
            if rows and not state.drop_last:
                batch = _row_batch(rows, shape)
                rows.clear()
                yield batch
            rows.clear()
        except BaseException as error:
            # Being closed at a yield, where no row is held, is not a failure.
            self._failed = bool(rows) or not isinstance(error, GeneratorExit)
            raise

    def _add(self, item: Any, shape: Shape) -> None:
        if not isinstance(item, TokenSequence):
            raise TypeError(_MIXED)
        row = check(item, "PackingIterator")
        if self._patches is None:
            self._patches = row.lengths is not None
        elif self._patches != (row.lengths is not None):
            raise ValueError("some sequences have patch lengths and others have none: rows must be of one kind")
        if row.tokens.size > 1:
            try:
                self._rows.append(fit(row, shape))
            except RowTooLongError:
                if shape.on_too_long != "skip":
                    raise
                counters.add("sequences skipped", 1)

    def _check(self) -> None:
        if self._failed:
            raise RuntimeError("packing failed within a batch: continue from a state that was taken before")


def _row_batch(rows: Sequence[Checked], shape: Shape) -> Batch:
    patched = [PatchedTokens(tokens, lengths) for tokens, lengths, _ in rows if lengths is not None]
    return patch_batch(patched, shape) if patched else token_batch([row.tokens for row in rows], shape)


def _shape(state: PackingState) -> Shape:
    return Shape(
        batch_size=state.batch_size,
        sequence_length=state.sequence_length,
        pad_id=state.pad_id,
        max_length=state.max_length,
        pad_to_max_length=state.pad_to_max_length,
        on_too_long=state.on_too_long,
        ngram_sizes=state.ngram_sizes,
        ngram_table_size=state.ngram_table_size,
    )


def _as_window(window: npt.NDArray[Any], dtype: np.dtype[Any], size: int) -> npt.NDArray[Any]:
    """Return a window with the tokens of ``window`` that can also hold tokens of another ``dtype``."""
    if not window.size:
        return np.empty(size, dtype)
    return window.astype(np.int64, copy=False)


_MIXED = "some items are arrays of tokens and others are sequences: all items must be of one kind"


def _check_reached(skip: int) -> None:
    if skip:
        raise ValueError(
            f"the tokens ended {skip} tokens before the position from which the packing continues: they must be the same "
            "at each run. Restore the data that they are made from, or start without the state"
        )
