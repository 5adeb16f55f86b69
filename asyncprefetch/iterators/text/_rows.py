"""Rows of tokens -> a batch. Each array is written only once: it may lie in memory that another process reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from asyncprefetch._worker import counters
from asyncprefetch.arrays import empty
from asyncprefetch.batch import Batch
from asyncprefetch.iterators.text._files import name_place
from asyncprefetch.iterators.text._tokens import Checked, Origin, PatchedTokens, join, split_first
from asyncprefetch.iterators.text.ngrams import ngram_ids

Arrays: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]
"""Inputs, targets and mask of a batch or a row."""

OnTooLong: TypeAlias = Literal["truncate", "raise", "skip"]


class RowTooLongError(ValueError):
    """A sequence is longer than a row may be.

    Attributes:
        file: the file name of the document with the beginning of the sequence; empty: unknown.
        row: that document's row in the file, from 0; ``None``: it is the whole file.
        length: the number of patches, targets or inputs of the sequence, whichever is too large.
        limit: the largest number allowed.
    """

    def __init__(
        self, message: str, *, file: str = "", row: int | None = None, length: int = 0, limit: int = 0
    ) -> None:
        super().__init__(message)
        self.file = file
        self.row = row
        self.length = length
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Shape:
    """The shape of a batch: the arguments of :class:`PackingIterator` with these names."""

    batch_size: int
    sequence_length: int
    pad_id: int
    max_length: int | None
    pad_to_max_length: bool
    on_too_long: OnTooLong
    ngram_sizes: tuple[int, ...]
    ngram_table_size: int


def fit(row: Checked, shape: Shape) -> Checked:
    """Return a sequence as it fits in a row: the first patch has one token, and it is cut at ``max_length``.

    Args:
        row: a sequence of at least two tokens.
        shape: the shape of the batch.

    Raises:
        RowTooLongError: it has more patches or targets than ``sequence_length``, or more inputs than ``max_length`` and
            ``on_too_long`` does not allow to cut it.
    """
    tokens, lengths, origin = row
    targets, limit = tokens.size - 1, shape.max_length
    if lengths is None:
        if targets > shape.sequence_length:
            raise _too_long(origin, targets, shape.sequence_length, "targets", "sequence_length")
        return row
    lengths = split_first(lengths)
    if limit is not None and targets > limit:
        if shape.on_too_long != "truncate":
            raise _too_long(origin, targets, limit, "inputs", "max_length")
        counters.add("targets cut off", targets - limit)
        tokens, lengths = tokens[: limit + 1], _truncate(lengths, limit + 1)
    if lengths.size > shape.sequence_length:
        raise _too_long(origin, lengths.size, shape.sequence_length, "patches", "sequence_length")
    return Checked(tokens, lengths, origin)


def stream_batch(tokens: npt.NDArray[Any], shape: Shape) -> Batch:
    """Return a batch of consecutive rows of one stream, with padding after the last target."""
    arrays = _arrays(shape.batch_size, shape.sequence_length)
    x, y, mask = (array.reshape(-1) for array in arrays)
    _fill((x, y, mask), tokens, tokens.size - 1, shape.pad_id)
    return _finish(arrays, None, shape)


def token_batch(rows: Sequence[npt.NDArray[Any]], shape: Shape) -> Batch:
    """Return a batch with one sequence without patches in each row. Each fits."""
    limit = shape.sequence_length
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
    """Return a batch with one sequence with patches in each row. Each fits."""
    patches = empty((shape.batch_size, shape.sequence_length), np.int64)
    limit = shape.max_length
    targets = [row.tokens.size - 1 for row in rows]
    for number, row in enumerate(rows):
        patches[number, : row.lengths.size] = row.lengths
        patches[number, row.lengths.size :] = 0
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
    """Write one row: inputs and targets of the first tokens, then padding."""
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
    """Return the first patches, the last of them cut so that they sum to ``total``."""
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


def _too_long(origin: Origin, length: int, limit: int, what: str, option: str) -> RowTooLongError:
    file, row = origin
    place = f" that begins in {name_place(file, row)}" if file else ""
    message = f"the sequence{place} has {length} {what}, but {option} is {limit}"
    return RowTooLongError(message, file=file, row=row, length=length, limit=limit)
