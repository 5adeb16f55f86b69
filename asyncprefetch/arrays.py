"""Arrays that need no copying: in a worker, :func:`empty`, :func:`full` and :func:`zeros` give memory that is shared with
the loader. Elsewhere, and where there is none left, they give plain numpy arrays: a program runs the same.

What was yielded in an item belongs to the consumer from then on. The array and the arrays that it is a view of become
read-only, yielding it again is an error, and it must not be read: the consumer may have changed it. Writing through a view
that was made before the yield can't be noticed at no cost. :func:`asyncprefetch.testing.assert_resumes_exactly` finds
both, and so does a worker with ``ASYNCPREFETCH_PROTECT=1`` in its environment: it ends at the line that touches such
memory, and writes that line to its standard error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, SupportsIndex

import numpy as np
import numpy.typing as npt

Shape = SupportsIndex | Sequence[SupportsIndex]


class Allocator(Protocol):
    """Where the memory comes from."""

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any], order: Literal["C", "F"]) -> Any:
        """An array, or ``None`` if it should be a plain one."""


_allocator: Allocator | None = None


def use(allocator: Allocator | None) -> Allocator | None:
    """Take the memory from ``allocator`` from now on, in this process. Gives the one before. For carriers and tests."""
    global _allocator  # noqa: PLW0603 - a process has one loader to make batches for
    before, _allocator = _allocator, allocator
    return before


def empty(shape: Shape, dtype: npt.DTypeLike = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of undefined content, as ``numpy.empty``, for an item that is yielded next.

    Args:
        shape: an int or a sequence of them.
        dtype: by default ``float64``.
        order: memory order, ``"C"`` or ``"F"``.

    Raises:
        TypeError, ValueError: as ``numpy.empty``.
    """
    if _allocator is not None:
        lengths = tuple(map(int, shape)) if isinstance(shape, Sequence) else (int(shape),)
        kind = np.dtype(dtype)
        if not kind.hasobject and math.prod(lengths) > 0 and order in {"C", "F"} and min(lengths, default=1) > 0:
            array: npt.NDArray[Any] | None = _allocator.allocate(lengths, kind, order)
            if array is not None:
                return array
    return np.empty(shape, dtype, order)


def full(
    shape: Shape, fill_value: Any, dtype: npt.DTypeLike = None, order: Literal["C", "F"] = "C"
) -> npt.NDArray[Any]:
    """An array of ``fill_value``, as ``numpy.full``: see :func:`empty`. The dtype is by default that of the value."""
    array = empty(shape, np.asarray(fill_value).dtype if dtype is None else dtype, order)
    np.copyto(array, fill_value, casting="unsafe")
    return array


def zeros(shape: Shape, dtype: npt.DTypeLike = None, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array of zeros, as ``numpy.zeros``: see :func:`empty`."""
    array = empty(shape, dtype, order)
    array.fill(0)
    return array
