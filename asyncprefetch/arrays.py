"""Arrays that need no copying: in a worker, :func:`empty`, :func:`full` and :func:`zeros` give memory that is shared with
the loader. Elsewhere, where there is none left, and to other threads and child processes of a worker, they give plain numpy
arrays: a program runs the same.

What was yielded in an item belongs to the consumer from then on. The array and the arrays that it is a view of become
read-only, yielding it again is an error, and it must not be read: the consumer may have changed it. Writing through a view
that was made before the yield, or through a torch tensor on the same memory, can't be noticed at no cost.
:func:`asyncprefetch.testing.assert_resumes_exactly` finds all of that, and so does ``ProcessWorkers(protect=True)``: a
worker ends at the line that touches such memory, and writes that line to its standard error.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from threading import get_ident
from typing import Any, Literal, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

Shape = SupportsIndex | Sequence[SupportsIndex]


class Allocator(Protocol):
    """Where the memory comes from."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Any:
        """An array, or ``None`` if it should be a plain one."""


_allocator: Allocator | None = None
_thread = 0  # that which the allocator is for: no allocator is made for two


def use(allocator: Allocator | None) -> Allocator | None:
    """Take the memory from ``allocator`` from now on, in this thread. Gives the one before. For transports and tests."""
    global _allocator, _thread  # noqa: PLW0603 - a process has one loader to make batches for
    before, _allocator = _allocator, allocator
    _thread = get_ident()
    return before


if hasattr(os, "register_at_fork"):
    # A child would make its arrays where its parent makes the next batch.
    os.register_at_fork(after_in_child=lambda: use(None))


def empty(shape: Shape, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of undefined content, as ``numpy.empty``, for an item that is yielded next.

    Args:
        shape: an int or a sequence of them.
        dtype: by default ``float64``.
        order: memory order, ``"C"`` or ``"F"``.

    Raises:
        TypeError, ValueError: as ``numpy.empty``.
    """
    array = _allocate(shape, dtype, order)
    return np.empty(shape, dtype, order) if array is None else array


def full(
    shape: Shape, fill_value: Any, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C"
) -> npt.NDArray[Any]:
    """An array of ``fill_value``, as ``numpy.full``: see :func:`empty`. The dtype is by default that of the value."""
    if dtype is None:
        dtype = np.asarray(fill_value).dtype
    array = empty(shape, dtype, order)
    np.copyto(array, fill_value, casting="unsafe")
    return array


def zeros(shape: Shape, dtype: npt.DTypeLike | None = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of zeros, as ``numpy.zeros``: see :func:`empty`."""
    array = _allocate(shape, dtype, order)
    if array is None:
        return np.zeros(shape, dtype, order)
    array.reshape(-1, order="A").view(np.uint8).fill(0)  # as bytes: filled with 0, strings would hold the digit
    return array


def _allocate(shape: Shape, dtype: npt.DTypeLike | None, order: Literal["C", "F"]) -> npt.NDArray[Any] | None:
    """An array on shared memory, or ``None`` where numpy should make it, or say why it can't be made."""
    if _allocator is None or get_ident() != _thread:
        return None
    try:
        # The type first: it is quicker to compare than to ask whether it is a sequence.
        lengths = tuple(map(operator.index, shape if type(shape) is tuple or isinstance(shape, Sequence) else (shape,)))
    except TypeError:
        return None
    kind = np.dtype(dtype)
    if kind.hasobject or order not in ("C", "F"):
        return None
    array: npt.NDArray[Any] | None = _allocator.allocate(lengths, kind, order)
    return array
