"""Tokens as they pass from stage to stage of a pipeline, and the checks that each stage makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from asyncprefetch._codec.registry import register

Array = npt.NDArray[Any]

ANCHOR_EVERY = 1 << 16
"""How many tokens and documents lie between two states that are kept as anchors. A resume draws that many again, which takes
a moment; taking the states costs almost nothing."""


@register("asyncprefetch.TokenSequence")
@dataclass(frozen=True, slots=True, eq=False)
class TokenSequence:
    """Tokens that belong together, and their patches. Do not write to the arrays: they may share memory.

    Attributes:
        tokens: integers of shape ``(n,)``.
        patch_lengths: integers from 1, of shape ``(patches,)``, that sum to ``n``; ``None``: no patches.
        file: the file name of the document that holds the first token after the context; empty: unknown.
        row: that document's row in the file, from 0; ``None``: it is the whole file.
    """

    tokens: npt.NDArray[Any]
    patch_lengths: npt.NDArray[Any] | None = None
    file: str = ""
    row: int | None = None


class Origin(NamedTuple):
    """The file and row of a document, as in :class:`TokenSequence`."""

    file: str = ""
    row: int | None = None


class Checked(NamedTuple):
    """The checked contents of an item."""

    tokens: Array
    lengths: npt.NDArray[np.int64] | None
    origin: Origin


_UNKNOWN = Origin()


class PatchedTokens(NamedTuple):
    """The checked contents of an item with patches."""

    tokens: Array
    lengths: npt.NDArray[np.int64]


def is_tokens(value: object) -> TypeGuard[Array]:
    """Return whether ``value`` is a 1-D array of integers."""
    return isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iu"


def describe(value: object) -> str:
    """Return a description of ``value`` for an error."""
    return f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else f"{value!r:.80}"


def check(item: object, taker: str) -> Checked:
    """Return the tokens and patch lengths of an item, an array or a :class:`TokenSequence`.

    Raises:
        TypeError: it is neither, or its tokens are not a 1-D array of integers.
        ValueError: a token is 2**63 or more, or the patch lengths do not fit the tokens.
    """
    tokens, lengths, origin = item, None, _UNKNOWN
    if isinstance(item, TokenSequence):
        tokens, lengths, origin = item.tokens, item.patch_lengths, Origin(item.file, item.row)
    if not is_tokens(tokens):
        raise TypeError(f"{taker} takes 1-D arrays of integers, not {describe(tokens)}")
    # Batches are int64. Only in uint64 can there be tokens that would become negative.
    if tokens.dtype.itemsize == 8 and tokens.dtype.kind == "u" and tokens.size and (largest := tokens.max()) >= 1 << 63:
        raise ValueError(f"{taker} takes tokens below 2**63, but token {int(tokens.argmax())} is {largest}")
    return Checked(tokens, None if lengths is None else check_patch_lengths(lengths, tokens.size), origin)


def check_patch_lengths(lengths: object, n: int) -> npt.NDArray[np.int64]:
    """Return the lengths as int64.

    Raises:
        ValueError: they are not a 1-D array of integers from 1 that sum to ``n``.
    """
    if not is_tokens(lengths):
        raise ValueError(f"patch lengths must be a 1-D array of integers, not {describe(lengths)}")
    if lengths.size and lengths.min() < 1:
        raise ValueError(f"patch lengths must be at least 1, but patch {int(lengths.argmin())} has {lengths.min()}")
    # A sum of floats does not wrap around. For numbers from 1 it is exact below 2**53, more than any n.
    if lengths.sum(dtype=np.float64) != n:
        raise ValueError(f"the patch lengths sum to {sum(lengths.tolist())}, but there are {n} tokens")
    checked: npt.NDArray[np.int64] = lengths.astype(np.int64, copy=False)
    return checked


def split_first(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the lengths with the first patch split after its first token, if it has more than one."""
    if not lengths.size or lengths[0] == 1:
        return lengths
    split = np.empty(lengths.size + 1, np.int64)
    split[0], split[1], split[2:] = 1, lengths[0] - 1, lengths[1:]
    return split


def join(parts: Sequence[Array]) -> Array:
    """Return the parts, concatenated, as integers."""
    if len(parts) == 1:
        return parts[0]
    joined = np.concatenate(parts)
    if joined.dtype.kind not in "iu":  # numpy converts int64 and uint64 to floats
        joined = np.concatenate(parts, dtype=np.int64, casting="unsafe")
    return joined
