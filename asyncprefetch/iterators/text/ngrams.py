"""A number for the last few tokens at each position, for models that look them up in a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

_BASE = 1_000_000_007
_WORD = 1 << 64


def ngram_ids(
    x: npt.NDArray[Any], sizes: Sequence[int], table_size: int, out: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Return the n-grams that end at each position, as numbers below ``table_size``.

    For ``n`` of ``sizes`` and each position ``i`` of a row ``x``, with ``p = 1,000,000,007``::

        (x[i] + x[i-1] * p + x[i-2] * p**2 + ... + x[i-n+1] * p**(n-1))  mod 2**64  mod table_size

    Positions before the beginning of the row count as 0. Different n-grams may have the same number. An n-gram has the same
    number in every row and at every position.

    Args:
        x: tokens, from 0, of shape ``(batch_size, sequence_length)``.
        sizes: the numbers of tokens in an n-gram, integers from 1.
        table_size: an integer from 1 to 2**63.
        out: an array of the shape and dtype of the result, which is filled; ``None``: a new array.

    Returns:
        int64 of shape ``(len(sizes), batch_size, sequence_length)``.

    Raises:
        ValueError: a size or ``table_size`` is not an integer, or out of range.
    """
    if not all(isinstance(n, int | np.integer) and n >= 1 for n in sizes):
        raise ValueError(f"sizes: n-grams must be of at least 1 token, an integer, not {sizes!r}")
    if not (isinstance(table_size, int | np.integer) and 1 <= table_size <= 1 << 63):
        raise ValueError(f"table_size must be an integer from 1 to 2**63, not {table_size!r}")
    ids = np.empty((len(sizes), *x.shape), np.int64) if out is None else out
    words = ids.view(np.uint64)
    for number, row in enumerate(x):  # one row at a time, so that all operands stay in the cache
        _hash_row(row.astype(np.uint64), sizes, np.uint64(table_size), words[:, number])
    return ids


def _hash_row(
    tokens: npt.NDArray[np.uint64], sizes: Sequence[int], table_size: np.uint64, out: npt.NDArray[np.uint64]
) -> None:
    hashes, term = tokens.copy(), np.empty_like(tokens)
    age, length = 1, tokens.size
    # From the shortest size on: each hash extends the one before it by one term for each further token, modulo 2**64.
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        while age < min(sizes[index], length):
            np.multiply(tokens[:-age], np.uint64(pow(_BASE, age, _WORD)), out=term[age:])
            hashes[age:] += term[age:]
            age += 1
        # This is hashes % table_size. numpy's floor_divide is several times faster than its remainder.
        np.floor_divide(hashes, table_size, out=term)
        term *= table_size
        np.subtract(hashes, term, out=out[index])
