"""Rows of tokens -> a batch. Each array is written once, for it may lie in memory that another process reads next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from asyncprefetch.arrays import empty
from asyncprefetch.batch import Batch
from asyncprefetch.iterators._tokens import PatchedTokens, join, split_first
from asyncprefetch.iterators.ngrams import ngram_ids

Arrays: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""Inputs, targets and mask, of a batch or a row."""


class RowTooLongError(ValueError):
    """A sequence is longer than a row may be.

    Attributes:
        row: its number in its batch, from 0.
        length: its patches, targets or inputs, whichever are too many.
        limit: how many there may be.
    """

    def __init__(self, message: str, *, row: int, length: int, limit: int) -> None:
        super().__init__(message)
        self.row = row
        self.length = length
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Shape:
    """What a batch is to look like: the arguments of :class:`PackingIterator` of these names."""

    batch_size: int
    sequence_length: int
    pad_id: int
    max_length: int | None
    pad_to_max_length: bool
    on_too_long: Literal["truncate", "raise"]
    ngram_sizes: tuple[int, ...]
    ngram_table_size: int


def stream_batch(tokens: npt.NDArray[Any], shape: Shape) -> Batch:
    """Neighbouring rows of one stream: what follows its last target is padding."""
    arrays = _arrays(shape.batch_size, shape.sequence_length)
    x, y, mask = (array.reshape(-1) for array in arrays)
    _fill((x, y, mask), tokens, tokens.size - 1, shape.pad_id)
    return _finish(arrays, None, shape)


def token_batch(rows: Sequence[npt.NDArray[Any]], shape: Shape) -> Batch:
    """One sequence without patches a row, each of ``sequence_length`` targets at most.

    Raises:
        RowTooLongError: one has more.
    """
    limit = shape.sequence_length
    for number, row in enumerate(rows):
        if row.size - 1 > limit:
            raise _too_long(number, row.size - 1, limit, "targets", "sequence_length")
    x, y, mask = arrays = _arrays(shape.batch_size, limit)
    if len(rows) == shape.batch_size and all(row.size == limit + 1 for row in rows):
        table = join(rows).reshape(shape.batch_size, limit + 1)
        x[:] = table[:, :-1]
        y[:] = table[:, 1:]
        mask.fill(True)
    else:
        _fill_rows(arrays, rows, [row.size - 1 for row in rows], shape.pad_id)
    return _finish(arrays, None, shape)


def patch_batch(rows: Sequence[PatchedTokens], shape: Shape) -> Batch:
    """One sequence with patches a row, each of ``sequence_length`` patches at most, and cut at ``max_length``.

    Raises:
        RowTooLongError: one has more patches, or is longer and is not to be cut.
    """
    patches = empty((shape.batch_size, shape.sequence_length), np.int64)
    limit = shape.max_length
    targets: list[int] = []
    for number, row in enumerate(rows):
        n, lengths = row.tokens.size - 1, split_first(row.lengths)
        if lengths.size > shape.sequence_length:
            raise _too_long(number, lengths.size, shape.sequence_length, "patches", "sequence_length")
        if limit is not None and n > limit:
            if shape.on_too_long == "raise":
                raise _too_long(number, n, limit, "inputs", "max_length")
            n, lengths = limit, _truncate(lengths, limit + 1)
        patches[number, : lengths.size] = lengths
        patches[number, lengths.size :] = 0
        targets.append(n)
    patches[len(rows) :] = 0
    patches[len(rows) :, 0] = 1
    width = limit if limit is not None and shape.pad_to_max_length else max(targets)
    arrays = _arrays(shape.batch_size, width)
    _fill_rows(arrays, [row.tokens for row in rows], targets, shape.pad_id)
    return _finish(arrays, patches, shape)


def _arrays(rows: int, width: int) -> Arrays:
    return empty((rows, width), np.int64), empty((rows, width), np.int64), empty((rows, width), np.bool_)


def _fill_rows(arrays: Arrays, rows: Sequence[npt.NDArray[Any]], targets: Sequence[int], pad_id: int) -> None:
    for number, (x, y, mask) in enumerate(zip(*arrays, strict=True)):
        if number < len(rows):
            _fill((x, y, mask), rows[number], targets[number], pad_id)
        else:
            _fill((x, y, mask), None, 0, pad_id)


def _fill(row: Arrays, tokens: npt.NDArray[Any] | None, targets: int, pad_id: int) -> None:
    """One row: the inputs and targets of the first tokens, and padding behind them."""
    x, y, mask = row
    if tokens is not None:
        x[:targets] = tokens[:targets]
        y[:targets] = tokens[1 : targets + 1]
        mask[:targets] = True
    if targets < x.size:
        x[targets:] = pad_id
        y[targets:] = pad_id
        mask[targets:] = False


def _truncate(lengths: npt.NDArray[np.int64], total: int) -> npt.NDArray[np.int64]:
    """The first patches, the last of them cut so that they sum to ``total``."""
    ends = lengths.cumsum()
    kept = int(np.searchsorted(ends, total)) + 1
    cut = lengths[:kept].copy()
    cut[-1] -= ends[kept - 1] - total
    return cut


def _finish(arrays: Arrays, patch_lengths: npt.NDArray[Any] | None, shape: Shape) -> Batch:
    x, y, mask = arrays
    if not shape.ngram_sizes:
        return Batch(x, y, mask, patch_lengths)
    ids = empty((len(shape.ngram_sizes), *x.shape), np.int64)
    return Batch(x, y, mask, patch_lengths, ngram_ids(x, shape.ngram_sizes, shape.ngram_table_size, out=ids))


def _too_long(row: int, length: int, limit: int, what: str, option: str) -> RowTooLongError:
    return RowTooLongError(
        f"row {row} of the batch has {length} {what}, and {option} is {limit}", row=row, length=length, limit=limit
    )
