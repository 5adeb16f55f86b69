"""Token arrays of any length, or sequences, -> batches."""

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
from asyncprefetch.iterators._position_digest import DrawnAgain, Witness
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
    """Where to start drawing again, and how many tokens to pass over.

    No token is kept, so the state is as small as the inner one, however long a document is. To restore a stream of
    arrays, the document in progress is drawn again, and at most some 65,536 tokens before it; of sequences, nothing.

    Attributes:
        inner: of sequences, the state behind the last row. Of arrays, the anchor: the state of the token iterator
            before the document in progress, or before an earlier one.
        offset: the number of tokens, counted from the anchor, that come before the first of the next row.
        witness: of arrays, digest of where the token iterator stands behind the document with the last token of the
            batch last yielded, against which that is checked when it is drawn again; empty: nothing is, or nothing is
            known.
        sequences: whether sequences have come.
        patches: whether those that have come have patches; ``None``: that is not known yet.
        batch_size: rows a batch.
        sequence_length: targets a row, or patches, where there are any.
        pad_id: the token in positions without a real target.
        max_length: the most inputs of a row with patches, or ``None``.
        pad_to_max_length: whether rows with patches are always as long as that.
        on_too_long: what is done with longer ones.
        drop_last: whether a last batch that is not full is left out.
        ngram_sizes: of which n-grams there are ids.
        ngram_table_size: one more than the largest of these ids.
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
        """The iterator whose next row begins ``offset`` tokens behind the anchor."""
        iterator = PackingIterator.__new__(PackingIterator)
        iterator._resume(self)
        return iterator


class PackingIterator(StatefulIterator[Batch]):
    """Makes batches of token arrays, which it joins and cuts into rows, or of sequences, each of which is a row.

    **Arrays** (1-D, of integers) are joined into one stream ``t[0], t[1], ...``. Row ``r`` of the whole stream is, with
    ``L = sequence_length``::

        x = t[r*L     : r*L + L]
        y = t[r*L + 1 : r*L + L + 1]

    so rows continue one another, and the last target of a row is the first input of the next. Every token but the
    first is a target exactly once; every token but the last is an input exactly once. Nothing but the tokenizer's
    bos and eos marks the borders between documents. In the last batch, what is left of the stream fills the first
    positions.

    **Sequences** (:class:`TokenSequence`): ``x = tokens[:-1]`` and ``y = tokens[1:]`` are one row. In the last batch there
    may be rows missing. A sequence of fewer than two tokens has no target, and is passed over.

    *Without patches* a row has at most ``sequence_length`` targets.

    *With patches* it has at most ``sequence_length`` patches, and ``patch_lengths`` has the shape ``(batch_size,
    sequence_length)``. Those of a row sum to the number of its targets plus one, and the first is 1: if the first patch of
    a sequence is longer, it is split behind its first token. Zeros follow the last patch, and a missing row has the one
    patch of length 1. Rows are as long as the longest of the batch; one longer than ``max_length`` is cut there, and so
    are its patches. With ``pad_to_max_length`` all batches have rows of ``max_length``.

    A batch is ``batch_size`` rows: ``x``, ``y`` and ``patch_lengths`` int64 and ``mask`` bool, of shape ``(batch_size, row
    length)``, with memory of its own. The mask is true exactly where there is a real target. Where it is false, ``x`` and
    ``y`` hold ``pad_id``. A stream without a target has no batch.

    Args:
        source: yields 1-D arrays of integers, or :class:`TokenSequence`; empty ones are allowed. All of one kind, and all
            with patches or all without. The object itself is only asked for its state. Rows that are drawn are kept until
            their batch is complete: nothing may write to them.
        batch_size: rows a batch, from 1.
        sequence_length: targets a row, or patches with patches, from 1.
        max_length: the most inputs of a row with patches, from 1; ``None``: no limit. Without patches it does nothing.
        pad_to_max_length: make all rows with patches that long.
        pad_id: the token in positions without a real target.
        on_too_long: ``"truncate"``: what a row has beyond ``max_length`` is lost, and counted in the loader's statistics as
            ``"targets cut off"``; ``"raise"``: that is an error; ``"skip"``: a sequence that does not fit, be it for
            its inputs, targets or patches, is passed over, and counted as ``"sequences skipped"``.
        drop_last: leave out the last batch if it is not full.
        ngram_sizes: for each of these ``n``, ``ngram_ids`` has the ids of the n-grams that end at each position of
            ``x``, as :func:`ngram_ids` defines them; int64 of shape ``(len(ngram_sizes), batch_size, row length)``.
        ngram_table_size: these ids lie below this.

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
        # Of arrays, the place, where it is not that in the state: a new state a batch costs as much as a small batch.
        self._place: tuple[IteratorState, int] | None = None
        self._witness = Witness(state.witness)
        # Of sequences, what they are drawn from, and what was drawn for a batch that is not complete.
        self._sequences: StatefulIterator[Any] | None = None
        self._rows: list[Checked] = []
        self._patches = state.patches
        self._failed = False  # in the midst of a batch

    def get_state(self) -> PackingState:
        """Where the row after the batch last yielded begins.

        Raises:
            RuntimeError: drawing sequences failed in the midst of a batch: what was drawn of it is in no state.
        """
        self._check()
        if self._sequences is not None:
            return self._state.model_copy(update={"inner": self._sequences.get_state(), "patches": self._patches})
        if self._place is None:
            return self._state.model_copy(update={"witness": self._witness.digest()})
        inner, offset = self._place
        return self._state.model_copy(update={"inner": inner, "offset": offset, "witness": self._witness.digest()})

    def create_iter(self) -> Iterator[Batch]:
        """The batches that are still to come.

        Raises:
            DocumentError: the arrays that are drawn again are not what they were.
            RowTooLongError: a sequence has more targets or patches than ``sequence_length``, or, with
                ``on_too_long="raise"``, more than ``max_length`` inputs. The message names file and row of the document
                that it begins with. Not with ``on_too_long="skip"``.
            TypeError: an item is neither a 1-D array of integers nor a ``TokenSequence`` of such, or items are of both
                kinds.
            ValueError: patch lengths do not fit their tokens, or come with some items only; or the tokens end before the
                place from which to go on.
        """
        self._check()
        if self._sequences is not None:
            yield from self._pack_sequences(self._sequences.create_iter())
            return
        state = self.get_state()
        source = state.inner.build()
        items = source.create_iter()
        if state.sequences:
            self._sequences = source
            yield from self._pack_sequences(items)
            return
        within_stream = bool(state.offset or state.witness)
        with DrawnAgain(within_stream, state.witness) as drawn_again:
            for first in items:  # which says of what kind all are
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
        # Places in the stream are counted from where this generator began to draw. An anchor is taken now and then,
        # not at each document: asking a long chain for its state costs more than packing a short document does.
        anchors = deque([(0, state.inner)])
        drawn, begin, skip = 0, state.offset, state.offset
        shape = _shape(state)
        # Of the tokens' own dtype, which is quicker to copy than the batch's; int64 if there are several.
        window: npt.NDArray[Any] = np.empty(0)
        fresh = 0  # tokens and documents since the last anchor: empty documents, too, take time to draw again
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
                drawn_again.over(source.get_state)
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
                    self._witness.is_of(source.get_state)
                    yield batch
                    self._witness.goes_on()
                    window[0], filled = window[-1], 1
            if fresh >= ANCHOR_EVERY:
                anchors.append((drawn, source.get_state()))
                fresh = 0
        _check_reached(skip)
        self._witness.forget()  # nothing is to come of what would be drawn again
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
            # To be closed at a yield, where no row is held, is no failure.
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
            raise RuntimeError("packing failed in the midst of a batch: go on from a state that was taken before")


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
    """What ``window`` holds, in one of ``size`` tokens that also takes those of ``dtype``, which is another."""
    if not window.size:
        return np.empty(size, dtype)
    return window.astype(np.int64, copy=False)


_MIXED = "some items are arrays of tokens and others are sequences: what is packed must be of one kind"


def _check_reached(skip: int) -> None:
    if skip:
        raise ValueError(
            f"the tokens ended {skip} before the place where the packing was to go on: they must be the same "
            "at each run. Bring back what they are made of, or start anew"
        )
