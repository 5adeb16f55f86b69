"""Token arrays of any length -> batches of one shape."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from asyncprefetch.arrays import full, zeros
from asyncprefetch.base import IteratorState, Position, StatefulIterator
from asyncprefetch.batch import Batch

_ANCHOR_EVERY = 1 << 16
"""Tokens between two anchors: few enough to draw again in a moment, many enough that anchors cost next to nothing."""


class PackingState(IteratorState, kind="asyncprefetch.packing", frozen=True):
    """Where to start drawing documents again, and how many of their tokens to pass over.

    No token is kept, so the state is as small as the inner one, however long a document is. To restore it, the
    document in progress is drawn again, and at most some 65,536 tokens before it.

    Attributes:
        inner: the anchor: the state of the token iterator before the document in progress, or before an earlier one.
        offset: the number of tokens, counted from the anchor, that come before the first of the next row.
        batch_size: rows a batch.
        sequence_length: targets a row.
        pad_id: the token in positions without a real target.
    """

    inner: IteratorState
    offset: Position[NonNegativeInt] = 0
    batch_size: PositiveInt
    sequence_length: PositiveInt
    pad_id: int

    def build(self) -> PackingIterator:
        """The iterator whose next row begins ``offset`` tokens behind the anchor."""
        iterator = PackingIterator.__new__(PackingIterator)
        iterator._state = self
        return iterator


class PackingIterator(StatefulIterator[Batch]):
    """Joins token arrays into one stream ``t[0], t[1], ...``, and cuts it into rows, and these into batches.

    Row ``r`` of the whole stream is, with ``L = sequence_length``::

        x = t[r*L     : r*L + L]
        y = t[r*L + 1 : r*L + L + 1]

    so rows continue one another, and the last target of a row is the first input of the next. Every token but the
    first is a target exactly once; every token but the last is an input exactly once. Nothing but the tokenizer's
    bos and eos marks the borders between documents.

    A batch is ``batch_size`` rows in a row: ``x`` and ``y`` int64 and ``mask`` bool, each of shape ``(batch_size,
    sequence_length)``, with memory of its own. The mask is true exactly where there is a real target. In the last
    batch, what is left of the stream fills the first positions; in those behind it the mask is false, and ``x`` and
    ``y`` hold ``pad_id``. A stream of one token has no target, hence no batch.

    Args:
        tokens: yields 1-D arrays of integers; empty ones are allowed. The object itself is only asked for its state.
        batch_size: rows a batch, from 1.
        sequence_length: targets a row, from 1.
        pad_id: the token in positions without a real target.

    Raises:
        ValueError: a size is below 1.
    """

    def __init__(
        self, tokens: StatefulIterator[npt.NDArray[Any]], *, batch_size: int, sequence_length: int, pad_id: int = 0
    ) -> None:
        self._state = PackingState(
            inner=tokens.get_state(), batch_size=batch_size, sequence_length=sequence_length, pad_id=pad_id
        )

    def get_state(self) -> PackingState:
        """Where the row after the batch last yielded begins."""
        return self._state

    def create_iter(self) -> Iterator[Batch]:
        """The batches that are still to come, drawn from the anchor on.

        Raises:
            TypeError: an item is not a 1-D array of integers.
            ValueError: the tokens end before the place from which to go on.
        """
        state = self._state
        source = state.inner.build()
        # Places in the stream are counted from where this generator began to draw. An anchor is taken now and then,
        # not at each document: asking a long chain for its state costs more than packing a short document does.
        anchors = deque([(0, state.inner)])
        drawn, begin, skip = 0, state.offset, state.offset
        window = np.empty(state.batch_size * state.sequence_length + 1, np.int64)
        filled = 0  # window[:filled] is the stream from ``begin`` on

        for tokens in source.create_iter():
            _check(tokens)
            drawn += tokens.size
            rest = tokens[skip:]
            skip -= tokens.size - rest.size
            while rest.size:
                part, rest = rest[: window.size - filled], rest[window.size - filled :]
                window[filled : filled + part.size] = part
                filled += part.size
                if filled == window.size:
                    begin += filled - 1
                    self._go_to(begin, anchors)
                    yield _batch(window, state)
                    window[0], filled = window[-1], 1
            if drawn - anchors[-1][0] >= _ANCHOR_EVERY:
                anchors.append((drawn, source.get_state()))
        if skip:
            raise ValueError(
                f"the tokens ended {skip} before the place where the packing was to go on: they must be the same "
                "at each run. Bring back what they are made of, or start anew"
            )
        if filled > 1:
            self._go_to(begin + filled - 1, anchors)
            yield _batch(window[:filled], state)

    def _go_to(self, begin: int, anchors: deque[tuple[int, IteratorState]]) -> None:
        while len(anchors) > 1 and anchors[1][0] <= begin:
            anchors.popleft()
        place, inner = anchors[0]
        self._state = self._state.model_copy(update={"inner": inner, "offset": begin - place})


def _batch(tokens: npt.NDArray[np.int64], state: PackingState) -> Batch:
    shape, targets = (state.batch_size, state.sequence_length), tokens.size - 1
    x, y = full(shape, state.pad_id, np.int64), full(shape, state.pad_id, np.int64)
    mask = zeros(shape, np.bool_)
    x.reshape(-1)[:targets] = tokens[:-1]
    y.reshape(-1)[:targets] = tokens[1:]
    mask.reshape(-1)[:targets] = True
    return Batch(x, y, mask)


def _check(tokens: Any) -> None:
    if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        what = f"{tokens.dtype} of shape {tokens.shape}" if isinstance(tokens, np.ndarray) else f"{tokens!r:.80}"
        raise TypeError(f"PackingIterator takes 1-D arrays of integers, not {what}")
